//! What is asked about a scene.

use serde::Serialize;

use crate::emoji::{group, names};
use crate::random::Random;
use crate::scene::{PLACES, Scene};

/// A question with its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Question {
    /// Its kind: `read`, `name`, `count`, `exists`, `left`, `match`.
    #[serde(rename = "type")]
    pub(crate) kind: &'static str,
    pub(crate) question: String,
    pub(crate) answer: String,
}

/// All questions that are trained on, or a few of each kind that are measured.
pub(crate) fn ask(scene: &Scene, known: bool, few: bool, random: &mut Random) -> Vec<Question> {
    let mut all = Vec::new();
    let mut add = |kind, mut own: Vec<(String, String)>, most: usize, random: &mut Random| {
        random.shuffle(&mut own);
        if few {
            own.truncate(most);
        }
        let own = own.into_iter();
        all.extend(own.map(|(question, answer)| Question {
            kind,
            question,
            answer,
        }));
    };
    let read = ("what is the word ?".to_owned(), scene.word.clone());
    add("read", vec![read], 1, random);
    let name = |(place, name): (usize, &str)| {
        (
            format!("what is at the {} ?", PLACES[place]),
            name.to_owned(),
        )
    };
    add("name", scene.placed().map(name).collect(), 2, random);
    let count = |of: &str| {
        let many = if of == "animal" { "animals" } else { "foods" };
        (
            format!("how many {many} are there ?"),
            scene.count(of).to_string(),
        )
    };
    add("count", vec![count("animal"), count("food")], 2, random);
    add("exists", exists(scene, random), 2, random);
    add("left", left(scene), 1, random);
    if known {
        let named = scene
            .placed()
            .any(|(_, name)| name.to_uppercase() == scene.word);
        let question = "does the word name something in the picture ?".to_owned();
        add("match", vec![(question, yes(named))], 1, random);
    }
    all
}

fn yes(it: bool) -> String {
    if it { "yes" } else { "no" }.to_owned()
}

/// Names that are there, and as many that are not.
fn exists(scene: &Scene, random: &mut Random) -> Vec<(String, String)> {
    let there: Vec<&str> = scene.placed().map(|(_, name)| name).collect();
    let mut absent: Vec<&str> = names().filter(|name| !there.contains(name)).collect();
    random.shuffle(&mut absent);
    let pairs = there
        .iter()
        .take(2)
        .zip(&absent)
        .flat_map(|(there, absent)| [(*there, true), (*absent, false)]);
    pairs
        .map(|(name, is)| (format!("is there a {name} ?"), yes(is)))
        .collect()
}

/// Neighbours in a row.
fn left(scene: &Scene) -> Vec<(String, String)> {
    let pairs = scene.placed().filter(|(place, _)| place % 3 > 0);
    let pairs = pairs.filter_map(|(place, name)| Some((scene.things[place - 1]?, name)));
    let asked =
        pairs.map(|(left, name)| (format!("what is left of the {name} ?"), left.to_owned()));
    asked.collect()
}

/// What the picture shows, in one line.
pub(crate) fn caption(scene: &Scene) -> String {
    let things = scene
        .placed()
        .map(|(place, name)| format!("{} {name} ,", PLACES[place]));
    let things: String = things.collect::<Vec<_>>().join(" ");
    let (animals, foods) = (scene.count("animal"), scene.count("food"));
    let text = format!(
        "{things} {animals} animals , {foods} foods , the word is {}",
        scene.word
    );
    text.trim().to_owned()
}

/// Every lower-case word that captions, questions, answers and findings are made of.
pub(crate) fn vocabulary() -> std::collections::BTreeSet<String> {
    let fixed = "what is the word at top middle bottom left right how many animals foods are there a of \
                 does name something in picture yes no animal food USER ASSISTANT objects seen text \
                 ? , . : ; user assistant above";
    let words = fixed.split_whitespace().chain(names());
    let all = words.chain(names().map(group));
    all.map(str::to_owned)
        .chain((0..10).map(|it| it.to_string()))
        .collect()
}
