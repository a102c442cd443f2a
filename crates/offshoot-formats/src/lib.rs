//! Reads and writes model files for offshoot.
