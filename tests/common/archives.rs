//! Archives as nobody's `tar` would write them.
#![allow(dead_code, missing_docs)]

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use tar::{EntryType, Header};

use crate::common::TestResult;

/// An entry, byte by byte.
#[derive(Clone)]
pub(crate) struct Raw {
    pub header: Header,
    pub data: Vec<u8>,
}

impl Raw {
    /// An entry whose name stands in the header as it is, whatever it is.
    pub(crate) fn new(name: &str, sort: EntryType, data: &[u8]) -> Self {
        Self::named(name.as_bytes(), sort, data)
    }

    pub(crate) fn named(name: &[u8], sort: EntryType, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.as_old_mut().name[..name.len()].copy_from_slice(name);
        header.set_entry_type(sort);
        header.set_mode(0o600);
        header.set_size(data.len() as u64);
        Self { header, data: data.to_vec() }
    }

    pub(crate) fn link(name: &str, sort: EntryType, target: &str) -> Self {
        let mut raw = Self::new(name, sort, b"");
        raw.header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        raw
    }

    pub(crate) fn mode(mut self, mode: u32) -> Self {
        self.header.set_mode(mode);
        self
    }

    pub(crate) fn name(&self) -> String {
        String::from_utf8_lossy(&self.header.path_bytes()).into_owned()
    }
}

/// The entries of an archive.
pub(crate) fn entries(archive: &[u8]) -> TestResult<Vec<Raw>> {
    let mut found = Vec::new();
    for entry in tar::Archive::new(GzDecoder::new(archive)).entries()?.raw(true) {
        let mut entry = entry?;
        let mut data = Vec::new();
        entry.read_to_end(&mut data)?;
        found.push(Raw { header: entry.header().clone(), data });
    }
    Ok(found)
}

/// The bytes of a tar file without its end.
pub(crate) fn blocks(entries: &[Raw]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for raw in entries {
        let mut header = raw.header.clone();
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&raw.data);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes
}

pub(crate) fn gzip(bytes: &[u8]) -> TestResult<Vec<u8>> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(bytes)?;
    Ok(gz.finish()?)
}

pub(crate) fn pack(entries: &[Raw]) -> TestResult<Vec<u8>> {
    let mut bytes = blocks(entries);
    bytes.resize(bytes.len() + 1024, 0);
    gzip(&bytes)
}
