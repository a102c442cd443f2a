//! Image classifiers as offshoot graphs, and what goes with each.
