//! The daemon's bearer token: 32 random bytes as 64 hexadecimal digits in a file of mode 0600.

use std::io::Write;
use std::path::Path;

use crate::error::{ConfigError, io};
use crate::file;
use crate::paths::{Paths, create_private_dir};
use crate::secrets::Secret;

const TOKEN_BYTES: usize = 32;

/// The token of this data directory; made at first use. Of several programs that start at once, all get the same one.
///
/// # Errors
/// The file cannot be read or made, other users may read it, or its content is not a token.
pub fn load_or_create(paths: &Paths) -> Result<Secret, ConfigError> {
    let path = paths.token_file();
    if let Some(token) = load(&path)? {
        return Ok(token);
    }
    create_private_dir(paths.data_dir())?;
    let token: String =
        rand::random::<[u8; TOKEN_BYTES]>().iter().map(|byte| format!("{byte:02x}")).collect();
    // Written completely (O_EXCL, 0600) under another name first: nobody ever reads half a token.
    let mut temporary = tempfile::Builder::new()
        .prefix(".token-")
        .tempfile_in(paths.data_dir())
        .map_err(io("create a file in", paths.data_dir()))?;
    temporary.write_all(token.as_bytes()).map_err(io("write", &path))?;
    temporary.as_file().sync_all().map_err(io("write", &path))?;
    match temporary.persist_noclobber(&path) {
        Ok(_) => {
            file::sync_dir(paths.data_dir())?;
            Ok(Secret::new(token))
        }
        Err(error) if error.error.kind() == std::io::ErrorKind::AlreadyExists => {
            load(&path)?.ok_or(ConfigError::BadToken { path })
        }
        Err(error) => Err(io("create", &path)(error.error)),
    }
}

/// The token, if the file exists. For clients, which must not make one.
///
/// # Errors
/// As [`load_or_create`].
pub fn load_existing(paths: &Paths) -> Result<Option<Secret>, ConfigError> {
    load(&paths.token_file())
}

fn load(path: &Path) -> Result<Option<Secret>, ConfigError> {
    let Some((stamp, content)) = file::read(path)? else { return Ok(None) };
    if stamp.mode & 0o077 != 0 {
        return Err(ConfigError::NotPrivate {
            path: path.to_path_buf(),
            reason: format!("its mode is {:04o}", stamp.mode),
            remedy: "others may know the token: delete the file to get a new one",
        });
    }
    match std::str::from_utf8(&content).map(str::trim) {
        Ok(text) if text.len() == 2 * TOKEN_BYTES && text.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            Ok(Some(Secret::new(text)))
        }
        _ => Err(ConfigError::BadToken { path: path.to_path_buf() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::Environment;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn made_once_even_by_many_at_once() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::resolve(Some(temp.path()), &Environment::default()).unwrap();
        assert!(load_existing(&paths).unwrap().is_none());
        let tokens: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| load_or_create(&paths).unwrap().expose().to_owned())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(tokens[0].len(), 64);
        assert!(tokens.iter().all(|token| *token == tokens[0]));
        assert_eq!(load_existing(&paths).unwrap().unwrap().expose(), tokens[0]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&paths.token_file()), mode(paths.data_dir())), (0o600, 0o700));
        assert_eq!(fs::read_dir(paths.data_dir()).unwrap().count(), 1);
    }

    #[test]
    fn open_or_foreign_files_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::resolve(Some(temp.path()), &Environment::default()).unwrap();
        load_or_create(&paths).unwrap();
        fs::set_permissions(paths.token_file(), Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(load_or_create(&paths), Err(ConfigError::NotPrivate { .. })));
        fs::set_permissions(paths.token_file(), Permissions::from_mode(0o600)).unwrap();
        for content in ["", "test", &"g".repeat(64)] {
            fs::write(paths.token_file(), content).unwrap();
            assert!(matches!(load_or_create(&paths), Err(ConfigError::BadToken { .. })), "{content}");
        }
    }
}
