//! What became of a person's last action. The page shows it once.

use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};

use crate::monitor::page::person::Person;

/// More people do not act within the moment that it takes to load the page again.
const MAX_NOTICES: usize = 64;

#[derive(Debug, Default)]
pub(crate) struct Notices(Mutex<VecDeque<(Person, String)>>);

impl Notices {
    /// Keeps a sentence for a person. It replaces an earlier one.
    pub(crate) fn put(&self, person: &Person, text: String) {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        notices.retain(|(of, _)| of != person);
        if notices.len() >= MAX_NOTICES {
            notices.pop_front();
        }
        notices.push_back((person.clone(), text));
    }

    /// Returns the sentence for a person, and forgets it.
    pub(crate) fn take(&self, person: &Person) -> Option<String> {
        let mut notices = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let place = notices.iter().position(|(of, _)| of == person)?;
        notices.remove(place).map(|(_, text)| text)
    }
}
