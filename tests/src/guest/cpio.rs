//! Writing an initramfs: the "newc" format that the kernel unpacks (`Documentation/driver-api/early-userspace`).

use std::collections::BTreeSet;
use std::io::{self, Write};

/// An archive being written. Folders are made as files need them.
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
    written: u64,
    inode: u32,
    folders: BTreeSet<String>,
}

const FOLDER: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

impl<W: Write> Archive<W> {
    /// An empty one.
    pub fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            inode: 0,
            folders: BTreeSet::new(),
        }
    }

    /// Adds a folder and those above it; `/` at the front of a path makes no difference here and below.
    ///
    /// # Errors
    /// When the archive cannot be written; so too below.
    pub fn folder(&mut self, path: &str, mode: u32) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.folders_above(path)?;
        if !path.is_empty() && self.folders.insert(path.to_owned()) {
            self.entry(path, FOLDER | mode, (0, 0), &[])?;
        }
        Ok(())
    }

    /// Adds a file.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.folders_above(path)?;
        self.entry(path, FILE | mode, (0, 0), content)
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, mode: u32, major: u32, minor: u32) -> io::Result<()> {
        let path = path.trim_matches('/');
        self.folders_above(path)?;
        self.entry(path, CHARACTER_DEVICE | mode, (major, minor), &[])
    }

    /// Ends the archive and returns what it was written to.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn folders_above(&mut self, path: &str) -> io::Result<()> {
        for (at, _) in path.match_indices('/') {
            let above = &path[..at];
            if self.folders.insert(above.to_owned()) {
                self.entry(above, FOLDER | 0o755, (0, 0), &[])?;
            }
        }
        Ok(())
    }

    fn entry(
        &mut self,
        name: &str,
        mode: u32,
        device: (u32, u32),
        content: &[u8],
    ) -> io::Result<()> {
        let too_large = |_| io::Error::new(io::ErrorKind::FileTooLarge, name.to_owned());
        self.inode += 1;
        // Field by field: magic, inode, mode, uid, gid, links, time, size, the file system's and the node's own device
        // numbers, length of the name with its zero byte, checksum (unused).
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            u32::try_from(content.len()).map_err(too_large)?,
            0,
            0,
            device.0,
            device.1,
            u32::try_from(name.len() + 1).map_err(too_large)?,
            0,
        ];
        let mut head = String::from("070701");
        for field in fields {
            head.push_str(&format!("{field:08x}"));
        }
        head.push_str(name);
        head.push('\0');
        self.write(head.as_bytes())?;
        self.write(content)
    }

    /// Writes, and pads to a multiple of four.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        self.written += bytes.len() as u64;
        let padding = (4 - self.written % 4) % 4;
        self.out.write_all(&[0; 3][..padding as usize])?;
        self.written += padding;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_folders_come_once() {
        let mut archive = Archive::new(Vec::new());
        archive
            .file("/usr/lib/a", 0o644, b"hello")
            .expect("written");
        archive.file("usr/lib/b", 0o755, b"").expect("written");
        let bytes = archive.finish().expect("written");
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let magics: Vec<usize> = text.match_indices("070701").map(|(at, _)| at).collect();
        assert!(magics.iter().all(|at| at % 4 == 0), "{magics:?}");
        // usr, usr/lib, a, b, trailer
        assert_eq!(magics.len(), 5);
        assert!(text.contains("hello"));
    }
}
