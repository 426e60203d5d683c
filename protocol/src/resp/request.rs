//! Client bytes to requests.
