//! Looks out for what goes wrong while losses still look fine.

use super::{StepRecord, StreamRecord};
use gatewright_compiler::stage::{Alarm, Trouble};
use std::collections::{BTreeMap, BTreeSet};

/// What an alarm found.
#[derive(Clone, Debug, PartialEq)]
pub struct Alert {
    /// The alarm that went off.
    pub alarm: Alarm,
    /// What it is about.
    pub subject: Subject,
    /// What is seen, in one sentence.
    pub headline: String,
}

/// What an alert is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// A use of a router, by its path.
    Router(String),
    /// One expert of it.
    Expert(String, usize),
    /// One of its streams.
    Stream(String, String),
    /// A named loss.
    Loss(String),
}

/// Which troubles last for how long. A trouble is told once for as long as it lasts.
#[derive(Clone, Debug)]
pub struct Watch {
    alarms: Vec<Alarm>,
    /// By position of the alarm: what is in trouble, and since which step.
    since: BTreeMap<(usize, Subject), Lasting>,
    /// The last value of each loss.
    losses: BTreeMap<String, f32>,
}

#[derive(Clone, Copy, Debug)]
struct Lasting {
    since: u64,
    told: bool,
}

impl Watch {
    /// Nothing is wrong yet.
    #[must_use]
    pub fn new(alarms: &[Alarm]) -> Self {
        Self {
            alarms: alarms.to_vec(),
            since: BTreeMap::new(),
            losses: BTreeMap::new(),
        }
    }

    /// Takes a logged step into account and gives what has lasted long enough now.
    pub fn look(&mut self, record: &StepRecord) -> Vec<Alert> {
        let mut alerts = Vec::new();
        for (position, alarm) in self.alarms.iter().enumerate() {
            let found = self.found(alarm.trouble, record);
            let seen = seen(alarm.trouble, record);
            let gone = |key: &Subject| seen.contains(key) && !found.contains_key(key);
            self.since
                .retain(|(own, subject), _| *own != position || !gone(subject));
            for (subject, headline) in found {
                let key = (position, subject.clone());
                let lasting = self.since.entry(key).or_insert(Lasting {
                    since: record.step,
                    told: false,
                });
                let steps = record.step - lasting.since.min(record.step);
                if lasting.told || steps < alarm.steps {
                    continue;
                }
                lasting.told = true;
                alerts.push(Alert {
                    alarm: alarm.clone(),
                    subject,
                    headline: format!("{headline} for {steps} steps"),
                });
            }
        }
        self.losses.extend(
            record
                .losses
                .iter()
                .map(|(name, loss)| (name.clone(), *loss)),
        );
        alerts
    }

    /// What is in this trouble in a step, in words.
    fn found(&self, trouble: Trouble, record: &StepRecord) -> BTreeMap<Subject, String> {
        let mut found = BTreeMap::new();
        for (path, router) in &record.routers {
            match trouble {
                Trouble::Collapse { experts } if f64::from(router.experts_in_use) < experts => {
                    let used = router.experts_in_use;
                    let headline = format!("`{path}` uses {used:.1} of its experts");
                    found.insert(Subject::Router(path.clone()), headline);
                }
                Trouble::DeadExpert => found.extend(router.dead.iter().map(|expert| {
                    let headline = format!("no token chose expert {expert} of `{path}`");
                    (Subject::Expert(path.clone(), *expert), headline)
                })),
                Trouble::Starved { success } => {
                    let streams = router.streams.iter();
                    // A stream without a token that counts lacks nothing.
                    let short =
                        |it: &StreamRecord| it.dropped > 0.0 && f64::from(it.success) < success;
                    let starved = streams.filter(|(_, it)| short(it));
                    found.extend(starved.map(|(stream, it)| {
                        let share = 100.0 * it.success;
                        let headline =
                            format!("`{path}` serves {share:.0} % of the choices of `{stream}`");
                        (Subject::Stream(path.clone(), stream.clone()), headline)
                    }));
                }
                Trouble::Collapse { .. } | Trouble::ConstantLoss => {}
            }
        }
        if trouble == Trouble::ConstantLoss {
            let same = record.losses.iter();
            let same = same.filter(|(name, loss)| self.losses.get(*name) == Some(loss));
            found.extend(same.map(|(name, loss)| {
                let headline = format!("`{name}` has stayed at {loss}");
                (Subject::Loss(name.clone()), headline)
            }));
        }
        found
    }
}

/// Whether a step says anything about these: a step of a mix measures one objective.
fn seen(trouble: Trouble, record: &StepRecord) -> BTreeSet<Subject> {
    let mut seen = BTreeSet::new();
    if trouble == Trouble::ConstantLoss {
        seen.extend(record.losses.keys().cloned().map(Subject::Loss));
        return seen;
    }
    for (path, router) in &record.routers {
        seen.insert(Subject::Router(path.clone()));
        for (stream, it) in &router.streams {
            seen.insert(Subject::Stream(path.clone(), stream.clone()));
            seen.extend((0..it.tokens.len()).map(|expert| Subject::Expert(path.clone(), expert)));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::RouterRecord;

    fn alarm(trouble: Trouble) -> Alarm {
        Alarm {
            trouble,
            steps: 20,
            stops: false,
            span: None,
        }
    }

    fn record(step: u64, loss: f32, dead: &[usize], success: f32) -> StepRecord {
        let text = StreamRecord {
            success,
            dropped: 8.0 * (1.0 - success),
            tokens: vec![4.0; 2],
            ..StreamRecord::default()
        };
        let router = RouterRecord {
            dead: dead.to_vec(),
            experts_in_use: 2.0,
            streams: [("text".to_owned(), text)].into(),
        };
        StepRecord {
            step,
            objective: None,
            losses: [("loss.a".to_owned(), loss)].into(),
            metrics: BTreeMap::new(),
            routers: [("gate".to_owned(), router)].into(),
            learning_rate: 0.0,
            examples_per_second: 0.0,
        }
    }

    fn headlines(watch: &mut Watch, record: &StepRecord) -> Vec<String> {
        let alerts = watch.look(record);
        alerts.into_iter().map(|alert| alert.headline).collect()
    }

    #[test]
    fn a_trouble_is_told_once_when_it_has_lasted() {
        let mut watch = Watch::new(&[alarm(Trouble::DeadExpert)]);
        assert_eq!(headlines(&mut watch, &record(0, 1.0, &[1], 1.0)), [""; 0]);
        assert_eq!(headlines(&mut watch, &record(10, 1.0, &[1], 1.0)), [""; 0]);
        let told = headlines(&mut watch, &record(20, 1.0, &[1], 1.0));
        assert_eq!(told, ["no token chose expert 1 of `gate` for 20 steps"]);
        assert_eq!(headlines(&mut watch, &record(30, 1.0, &[1], 1.0)), [""; 0]);
        // It ends, and begins again.
        assert_eq!(headlines(&mut watch, &record(40, 1.0, &[], 1.0)), [""; 0]);
        assert_eq!(headlines(&mut watch, &record(50, 1.0, &[1], 1.0)), [""; 0]);
        assert_eq!(headlines(&mut watch, &record(70, 1.0, &[1], 1.0)).len(), 1);
    }

    #[test]
    fn every_trouble_has_its_words() {
        let troubles = [
            Trouble::Collapse { experts: 2.5 },
            Trouble::Starved { success: 0.5 },
            Trouble::ConstantLoss,
        ];
        let mut watch = Watch::new(&troubles.map(alarm));
        let mut told = Vec::new();
        for step in [0, 10, 20, 30] {
            told.extend(headlines(&mut watch, &record(step, 0.5, &[], 0.25)));
        }
        assert_eq!(
            told,
            [
                "`gate` uses 2.0 of its experts for 20 steps",
                "`gate` serves 25 % of the choices of `text` for 20 steps",
                "`loss.a` has stayed at 0.5 for 20 steps",
            ]
        );
        let healthy = [0, 10, 20, 30, 40].map(|step| record(step, step as f32, &[], 0.9));
        let mut watch = Watch::new(
            &troubles[1..]
                .iter()
                .map(|it| alarm(*it))
                .collect::<Vec<_>>(),
        );
        assert!(healthy.iter().all(|record| watch.look(record).is_empty()));
    }
}
