//! The certificate of `gander agent`: made once, kept, and told to Desktop by its fingerprint.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::{Context as _, Result};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use sha2::{Digest as _, Sha256};

/// Where Goose keeps its own, too: a Desktop that pinned it goes on to trust it.
const CERT: &str = "server.pem";
const KEY: &str = "server.key";

pub(super) fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Certificate and key of this directory, made now if there are none.
pub(super) fn load_or_create(directory: &Path) -> Result<(Vec<u8>, Vec<u8>)> {
    let (cert, key) = (directory.join(CERT), directory.join(KEY));
    let what = || format!("cannot keep a certificate in {}", directory.display());
    fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(what)?;
    // Two windows may start at once. Who holds this makes the files, the others find them.
    let lock = private().open(directory.join("lock")).with_context(what)?;
    lock.lock().with_context(what)?;
    if cert.exists() && key.exists() {
        return Ok((read(&cert)?, read(&key)?));
    }
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    let made = rcgen::generate_simple_self_signed(names).context("cannot make a certificate")?;
    let (cert_pem, key_pem) = (made.cert.pem().into_bytes(), made.signing_key.serialize_pem().into_bytes());
    replace(&key, &key_pem).with_context(what)?;
    replace(&cert, &cert_pem).with_context(what)?;
    Ok((cert_pem, key_pem))
}

fn private() -> fs::OpenOptions {
    let mut options = fs::OpenOptions::new();
    options.create(true).truncate(false).write(true).mode(0o600);
    options
}

/// The file is whole or not there, whenever the process ends.
fn replace(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    let mut file = private().truncate(true).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// SHA-256 of the first certificate's DER form, as Desktop compares it: upper-case hex with colons.
pub(super) fn fingerprint(cert_pem: &[u8]) -> Result<String> {
    let der = CertificateDer::from_pem_slice(cert_pem)
        .map_err(|error| anyhow::anyhow!("the certificate is not PEM: {error}"))?;
    let bytes = Sha256::digest(der.as_ref());
    Ok(bytes.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn made_once_and_kept() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("tls");
        let first = load_or_create(&directory).unwrap();
        assert_eq!(load_or_create(&directory).unwrap(), first);
        let mode = fs::metadata(directory.join(KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let print = fingerprint(&first.0).unwrap();
        assert_eq!(print.len(), 32 * 3 - 1);
        assert!(print.chars().all(|c| matches!(c, '0'..='9' | 'A'..='F' | ':')), "{print}");
        let left: Vec<_> = fs::read_dir(&directory).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 3, "certificate, key and lock: {left:?}");
    }

    #[test]
    fn windows_that_start_together_get_one_certificate() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("tls");
        let made: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_create(&directory).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let kept = load_or_create(&directory).unwrap();
        assert!(made.iter().all(|pair| *pair == kept));
    }
}
