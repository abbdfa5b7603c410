//! ipvsadm in a scenario's shell, with its files and pipes.

use std::collections::HashMap;

use crate::oracle::director::Director;

/// What a shell's ipvsadm has written to files.
#[derive(Default)]
pub struct Files(HashMap<String, String>);

impl Files {
    /// Runs `ipvsadm …`, `ipvsadm-save …` or `ipvsadm-restore`, from and to files, or behind one another
    /// with pipes between. What it says is not compared: listings follow.
    pub fn run(&mut self, line: &str, director: &mut Director) {
        let mut piped = String::new();
        for command in line.split('|') {
            piped = self.one(command.trim(), piped, director);
        }
    }

    fn one(&mut self, command: &str, piped: String, director: &mut Director) -> String {
        let (command, to) = command.split_once('>').map_or((command, None), |(c, to)| (c, Some(to.trim())));
        let (command, from) = command.split_once('<').map_or((command, None), |(c, from)| (c, Some(from.trim())));
        let (program, options) = command.trim().split_once(' ').unwrap_or((command.trim(), ""));
        let line = match program {
            "ipvsadm-save" => format!("-S {options}"),
            "ipvsadm-restore" => "-R".to_owned(),
            "echo" | "printf" => {
                let text = options.trim_start_matches("-e ").trim_matches(['"', '\'']).replace("\\n", "\n");
                return self.keep(to, text + "\n");
            }
            "cat" => return self.0.get(options.trim()).cloned().unwrap_or_default(),
            _ => options.to_owned(),
        };
        if director.rules.is_listing(line.trim()) {
            let now = director.now();
            let Director { rules, rig, .. } = director;
            let (_, listing, _) = rules.show(line.trim(), now, || rig.run());
            return self.keep(to, listing);
        }
        let stdin = from.and_then(|from| self.0.get(from)).cloned().unwrap_or(piped);
        director.ipvsadm(line.trim(), &stdin);
        String::new()
    }

    /// Keeps what goes to a file; the rest goes on.
    fn keep(&mut self, to: Option<&str>, text: String) -> String {
        match to {
            Some(file) => {
                self.0.insert(file.to_owned(), text);
                String::new()
            }
            None => text,
        }
    }
}
