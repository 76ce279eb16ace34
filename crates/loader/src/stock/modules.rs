//! Which modules there are, and what each needs: `modules.dep` and `modules.builtin`.

use std::{
    collections::{HashMap, HashSet},
    fs,
    path::{Component, Path, PathBuf},
};

use super::StockError;

/// A module to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Module {
    /// As `lsmod` prints it.
    pub name: String,
    pub path: PathBuf,
}

/// The modules of one kernel.
pub(super) struct Modules {
    folder: PathBuf,
    /// By name: the file and the names of what it needs.
    loadable: HashMap<String, (PathBuf, Vec<String>)>,
    builtin: HashSet<String>,
}

impl Modules {
    /// Reads the lists in a folder such as `/lib/modules/6.1.0-56-amd64`.
    pub fn read(folder: &Path) -> Result<Self, StockError> {
        let list = |name: &str| {
            let path = folder.join(name);
            match fs::read(&path) {
                Ok(bytes) => Ok((String::from_utf8_lossy(&bytes).into_owned(), path)),
                Err(source) => Err(StockError::List { path, source }),
            }
        };
        let (dependencies, path) = list("modules.dep")?;
        let (builtin, _) = list("modules.builtin")?;
        let mut loadable = HashMap::new();
        for line in dependencies.lines() {
            let Some((file, needs)) = line.split_once(':') else { continue };
            if !Path::new(file).components().all(|part| matches!(part, Component::Normal(_))) {
                return Err(StockError::Outside { path, file: file.into() });
            }
            let needs = needs.split_whitespace().map(module_name).collect();
            loadable.insert(module_name(file), (folder.join(file), needs));
        }
        let builtin = builtin.lines().map(module_name).collect();
        Ok(Modules { folder: folder.into(), loadable, builtin })
    }

    /// The wanted modules that are not built in, each after what it needs.
    pub fn order(&self, wanted: &[(&str, bool)]) -> Result<Vec<Module>, StockError> {
        let mut order = Vec::new();
        let mut seen = HashSet::new();
        for &(name, required) in wanted {
            if required || self.loadable.contains_key(name) {
                self.visit(name, &mut seen, &mut order)?;
            }
        }
        Ok(order)
    }

    fn visit<'a>(
        &'a self,
        name: &'a str,
        seen: &mut HashSet<&'a str>,
        order: &mut Vec<Module>,
    ) -> Result<(), StockError> {
        // Without recursion: a chain in the list may be as long as the list.
        let mut stack = vec![(name, None)];
        while let Some((name, entered)) = stack.pop() {
            if let Some(path) = entered {
                order.push(Module { name: name.into(), path: PathBuf::clone(path) });
                continue;
            }
            if self.builtin.contains(name) || !seen.insert(name) {
                continue;
            }
            let Some((path, needs)) = self.loadable.get(name) else {
                return Err(StockError::Missing { folder: self.folder.clone(), module: name.into() });
            };
            stack.push((name, Some(path)));
            // The list has everything that is needed, the first to be loaded last: that comes off first.
            stack.extend(needs.iter().map(|need| (need.as_str(), None)));
        }
        Ok(())
    }
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` is `virtio_rng` to the kernel.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    let name = name.split_once(".ko").map_or(name, |(stem, _)| stem);
    name.replace('-', "_")
}
