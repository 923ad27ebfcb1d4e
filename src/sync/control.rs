//! How a daemon's sync with its upstream is looked at and told what to do. There is no upstream.

use super::Cursor;
use super::link::{Answer, LinkError};
use super::status::Status;
use crate::store::rows::Revision;

/// A daemon's sync with its upstream.
#[derive(Default)]
pub struct Control;

fn none<T>() -> Answer<T> {
    Err(LinkError::Refused("no upstream is set: UPSTREAM_URL".into()))
}

impl Control {
    /// How it is.
    pub fn status(&self) -> Status {
        Status::default()
    }

    /// Returns when both sides are the same.
    pub async fn now(&self) -> Answer<Cursor> {
        none()
    }

    /// Leaves the upstream alone.
    pub fn pause(&self) {}

    /// Goes on.
    pub fn resume(&self) {}

    /// Joins an upstream that refused.
    pub async fn join(&self, _merge: bool) -> Answer<()> {
        none()
    }

    /// Returns when the changes up to a revision are on the upstream's disk.
    pub async fn flush(&self, _revision: Revision) -> Answer<Cursor> {
        none()
    }
}
