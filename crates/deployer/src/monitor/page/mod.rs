//! The page of `deployer monitor`.

pub(crate) mod feed;
mod figures;
mod possible;
mod recent;
pub(crate) mod render;
mod render_actions;
mod render_colors;
mod render_compare;
mod render_history;
mod render_status;
#[cfg(test)]
mod samples;
pub(crate) mod stream;
pub(crate) mod traffic;
pub(crate) mod view;
