//! What models find in a scene, in the forms that Gatewright documents.

use serde_json::{Value, json};

use crate::detect::Found;
use crate::emoji::group;
use crate::ocr::Line;
use crate::scene::{CELL, SIDE, Scene};

/// All findings of a scene as one document. Segments are those of its composition, named by their group;
/// detections, relations and lines are what models found.
pub(crate) fn document(scene: &Scene, map: &[u8], detections: &[Found], lines: &[Line]) -> Value {
    let segments = scene.placed().filter_map(|(place, name)| {
        let bbox = bounds(map, place as u8 + 1)?;
        Some(json!({ "id": place + 1, "name": group(name), "bbox": bbox }))
    });
    let boxed = |found: &Found| {
        let (left, top) = scene.corner(found.place);
        json!({ "name": found.name, "bbox": [left, top, CELL, CELL], "score": found.score })
    };
    json!({
        "width": SIDE, "height": SIDE, "file_name": "map.png",
        "segments_info": segments.collect::<Vec<_>>(),
        "annotations": detections.iter().map(boxed).collect::<Vec<_>>(),
        "relations": relations(detections),
        "lines": lines,
    })
}

/// Who stands beside whom, by the centres of boxes.
fn relations(detections: &[Found]) -> Vec<Value> {
    let centre = |found: &Found| (found.place % 3, found.place / 3);
    let mut all = Vec::new();
    for one in detections {
        for other in detections {
            let ((x, y), (u, v)) = (centre(one), centre(other));
            if y == v && x + 1 == u {
                let score = (one.score * other.score * 1e3).round() / 1e3;
                all.push(
                    json!({ "subject": one.name, "predicate": "left of", "object": other.name,
                                 "score": score }),
                );
            }
        }
    }
    all
}

/// x, y, width and height of the pixels with a number.
fn bounds(map: &[u8], number: u8) -> Option<[u32; 4]> {
    let own = || (0..SIDE * SIDE).filter(|at| map[*at as usize] == number);
    let (left, right) = (
        own().map(|at| at % SIDE).min()?,
        own().map(|at| at % SIDE).max()?,
    );
    let (top, bottom) = (
        own().map(|at| at / SIDE).min()?,
        own().map(|at| at / SIDE).max()?,
    );
    Some([left, top, right - left + 1, bottom - top + 1])
}
