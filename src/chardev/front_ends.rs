//! Who uses a character device, and whether that front end is open: a port of a virtio device is
//! open while the guest has it open, everybody else from the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A front end's place at a back end. Clones are the same place.
#[derive(Debug, Clone, Default)]
pub struct Place(Arc<State>);

#[derive(Debug, Default)]
struct State {
    /// No other front end of this back end has had it.
    number: usize,
    open: AtomicBool,
}

impl Place {
    /// The front end opens, or closes.
    pub fn set_open(&self, open: bool) {
        self.0.open.store(open, Ordering::Relaxed);
    }

    pub fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Relaxed)
    }

    pub(super) fn number(&self) -> usize {
        self.0.number
    }
}

/// The front ends of a back end.
#[derive(Debug)]
pub(super) struct FrontEnds {
    /// As many as there can be.
    most: usize,
    places: Vec<Place>,
    next: usize,
    /// Number of the place of the one that is heard.
    pub(super) focus: Option<usize>,
    /// The only one goes on with another device in this one's place.
    pub(super) hotswap: bool,
}

impl FrontEnds {
    pub(super) fn up_to(most: usize) -> Self {
        Self { most, places: Vec::new(), next: 0, focus: None, hotswap: false }
    }

    /// Another front end, which is open. One that is alone is heard.
    pub(super) fn admit(&mut self) -> Place {
        let place = Place(Arc::new(State { number: self.next, open: AtomicBool::new(true) }));
        self.next += 1;
        if self.most == 1 {
            self.focus = Some(place.number());
        }
        self.places.push(place.clone());
        place
    }

    pub(super) fn remove(&mut self, place: &Place) {
        self.places.retain(|other| other.number() != place.number());
        self.focus = self.focus.filter(|number| *number != place.number());
        self.hotswap &= !self.places.is_empty();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    pub(super) fn has_room(&self) -> bool {
        self.places.len() < self.most
    }

    /// The one that is heard is open.
    pub(super) fn is_open(&self) -> bool {
        self.places.iter().any(|place| Some(place.number()) == self.focus && place.is_open())
    }
}
