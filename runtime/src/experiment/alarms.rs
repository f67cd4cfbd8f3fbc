//! Alerts as diagnostics with their place in the spec.

use crate::codes;
use crate::project::{Mistakes, Project};
use crate::train::{Alert, Subject, Watch};
use gatewright_compiler::lower::Lowered;
use gatewright_compiler::stage::{StageSpec, Trouble};
use gatewright_grammar::ast::SectionKind;
use gatewright_grammar::diagnostic::{Diagnostic, Severity};
use gatewright_grammar::source::Span;
use std::collections::BTreeMap;

/// The watch over a stage, and where routers stand in the spec.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) watch: Watch,
    /// The `router` item of each use, by path.
    routers: BTreeMap<String, String>,
}

impl Guard {
    pub(super) fn new(stage: &StageSpec, lowered: &[Lowered]) -> Self {
        let routers = lowered.iter().flat_map(|it| &it.routers);
        Self {
            watch: Watch::new(&stage.alarms),
            routers: routers
                .map(|it| (it.path.clone(), it.router.clone()))
                .collect(),
        }
    }

    /// An alert with its place: an error where it ends the run.
    pub(super) fn told(&self, project: &Project, alert: &Alert) -> Box<Mistakes> {
        let mut diagnostic = Diagnostic::warning(codes::ALARM, alert.headline.clone());
        if alert.alarm.stops {
            diagnostic.severity = Severity::Error;
        }
        if let Some((span, label)) = self.place(project, &alert.subject) {
            diagnostic = diagnostic.at(span, label);
        }
        if let Some(span) = alert.alarm.span {
            diagnostic = diagnostic.also(span, "the alarm is set here");
        }
        let help = match alert.alarm.trouble {
            Trouble::Collapse { .. } | Trouble::DeadExpert => {
                "give balance losses such as `importance` and `global_entropy` more weight, or lower the \
                 learning rate"
            }
            Trouble::Starved { .. } => {
                "add `priority = batch`, an entropy loss over this stream, or capacity"
            }
            Trouble::ConstantLoss => {
                "see whether it reaches a parameter that trains; a threshold may hold it at zero"
            }
        };
        let word = alert.alarm.trouble.word();
        let off = format!("`alarms {{ {word} = none }}` in the stage turns this alarm off");
        project.mistakes(vec![diagnostic.help(help).note(off)])
    }

    fn place(&self, project: &Project, subject: &Subject) -> Option<(Span, String)> {
        let router = |path: &str| {
            let name = self.routers.get(path)?;
            let sections = project.model.sections(SectionKind::Router);
            let section = sections.iter().find(|section| section.name == *name)?;
            Some((section.span, format!("this router, as `{path}`")))
        };
        match subject {
            Subject::Router(path) | Subject::Expert(path, _) | Subject::Stream(path, _) => {
                router(path)
            }
            Subject::Loss(output) => {
                let (_, name) = output.split_once('.')?;
                let formula = project.model.formula(name)?;
                Some((formula.name.span, "this value".to_owned()))
            }
        }
    }
}
