//! The linker: takes PTX texts and gives back one.

use crate::foreign::Outcome;
use crate::module::{Refusal, check_text};
use crate::table::{Kind, Table};
use parking_lot::Mutex;
use std::sync::Arc;
use vgpu_protocol::cuda::{CUlinkState, CUresult};

/// Directives that a PTX text has once, at its head.
const HEAD: [&str; 3] = [".version", ".target", ".address_size"];

#[derive(Default)]
struct State {
    inputs: Vec<String>,
    /// The image given out, with its terminator; it stays where it is until the link is destroyed.
    output: Option<Box<[u8]>>,
}

/// A link under way.
#[derive(Default)]
pub(crate) struct Link {
    state: Mutex<State>,
}

static LINKS: Table<Link> = Table::new(Kind::Link);

/// Begins a link.
pub(crate) fn create() -> CUlinkState {
    let mut name = CUlinkState::NULL;
    LINKS.insert_with(|handle| {
        name = CUlinkState(handle);
        Link::default()
    });
    name
}

/// The live link of a handle.
pub(crate) fn get(handle: CUlinkState) -> Outcome<Arc<Link>> {
    LINKS.get(handle.0).ok_or(CUresult::INVALID_HANDLE)
}

/// Ends a link; the image it gave out is gone.
pub(crate) fn destroy(handle: CUlinkState) -> Outcome {
    let gone = LINKS.remove(handle.0);
    gone.map(drop).ok_or(CUresult::INVALID_HANDLE)
}

impl Link {
    /// Adds PTX.
    pub(crate) fn add(&self, text: String) -> Result<(), Refusal> {
        check_text(&text)?;
        self.state.lock().inputs.push(text);
        Ok(())
    }

    /// Joins the inputs; returns address and size of the image, its terminator included.
    pub(crate) fn complete(&self) -> Result<(usize, usize), Refusal> {
        let mut state = self.state.lock();
        let text = join(&state.inputs);
        check_text(&text)?;
        let mut image = text.into_bytes();
        image.push(0);
        let image = state.output.insert(image.into_boxed_slice());
        Ok((image.as_ptr() as usize, image.len()))
    }
}

/// The first text, and the others without their heads.
fn join(inputs: &[String]) -> String {
    let mut joined = String::new();
    for (index, input) in inputs.iter().enumerate() {
        for line in input.lines() {
            let head = HEAD.iter().any(|word| line.trim_start().starts_with(word));
            if index == 0 || !head {
                joined.push_str(line);
                joined.push('\n');
            }
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_heads_are_left_out() {
        let text = |body: &str| format!(".version 8.0\n.target sm_80\n{body}\n");
        let joined = join(&[text("first"), text("second")]);
        assert_eq!(joined, ".version 8.0\n.target sm_80\nfirst\nsecond\n");
    }
}
