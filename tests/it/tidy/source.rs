//! A file of the tree as the rules see it: its path, its text, and for Rust its tokens, functions and paths.
//!
//! Owns the reading. Does not know what is forbidden.

use proc_macro2::{Delimiter, Spacing, TokenStream, TokenTree};

/// A file of the tree.
#[derive(Debug)]
pub(super) struct Source {
    /// Path from the top of the tree, with `/`.
    pub(super) path: String,
    pub(super) text: String,
    /// Empty for what is not Rust. Comments are no tokens; `//!` and `///` are literals.
    pub(super) tokens: Vec<Token>,
}

/// One token; a group is its two delimiters and what is between them.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
    /// A word of the language or a name, not the text of a literal.
    pub(super) is_word: bool,
    /// Belongs to an item that only tests have.
    pub(super) is_test: bool,
    /// Modules within the file around it.
    pub(super) depth: usize,
}

/// A function with a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) first_line: usize,
    pub(super) last_line: usize,
}

/// A path such as `a::b::c`, `use` groups spelled out.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    pub(super) is_test: bool,
    pub(super) depth: usize,
}

impl Source {
    /// Reads a file. What ends in `.rs` must be Rust.
    pub(super) fn new(path: &str, text: &str) -> Self {
        let mut tokens = Vec::new();
        if ending(path) == "rs" {
            let stream: TokenStream = text.parse().unwrap_or_else(|e| panic!("{path} is not Rust: {e}"));
            let is_test = path.split(['/', '.']).any(|part| part == "tests" || part == "benches");
            flatten(stream, is_test, 0, &mut tokens);
        }
        Self { path: path.into(), text: text.into(), tokens }
    }

    pub(super) fn is_rust(&self) -> bool {
        ending(&self.path) == "rs"
    }

    /// The module of `src/lib.rs` that the file belongs to; `None` for other files, the bin among them.
    pub(super) fn module(&self) -> Option<&str> {
        let name = self.path.strip_prefix("src/")?.split(['/', '.']).next()?;
        (self.is_rust() && name != "lib" && name != "main").then_some(name)
    }

    /// How many modules deep the file is: 1 for `src/hub/mod.rs`, 2 for `src/hub/shard.rs`.
    pub(super) fn depth(&self) -> usize {
        self.path.split('/').skip(1).filter(|part| !matches!(*part, "mod.rs" | "lib.rs" | "main.rs")).count()
    }

    pub(super) fn functions(&self) -> Vec<Function> {
        let names = |(at, token): (usize, &Token)| (token.is_word && token.text == "fn").then_some(at);
        let starts = self.tokens.iter().enumerate().filter_map(names);
        starts.filter_map(|at| self.function(at)).collect()
    }

    /// The function whose `fn` is at `at`; `None` for types and for declarations without a body.
    fn function(&self, at: usize) -> Option<Function> {
        let name = self.tokens.get(at + 1).filter(|token| token.is_word)?;
        let mut nesting = 0usize;
        for (offset, token) in self.tokens[at..].iter().enumerate() {
            match token.text.as_str() {
                ";" if nesting == 0 => return None,
                "{" if nesting == 0 => {
                    let last_line = self.tokens[self.closing(at + offset)].line;
                    return Some(Function { name: name.text.clone(), first_line: self.tokens[at].line, last_line });
                }
                "(" | "[" | "{" => nesting += 1,
                ")" | "]" | "}" => nesting -= 1,
                _ => {}
            }
        }
        None
    }

    /// Where the group that opens at `open` closes.
    fn closing(&self, open: usize) -> usize {
        let mut nesting = 0usize;
        for (at, token) in self.tokens.iter().enumerate().skip(open) {
            match token.text.as_str() {
                "(" | "[" | "{" => nesting += 1,
                ")" | "]" | "}" if nesting == 1 => return at,
                ")" | "]" | "}" => nesting -= 1,
                _ => {}
            }
        }
        unreachable!("groups are balanced")
    }

    /// All paths and single words of the file.
    pub(super) fn paths(&self) -> Vec<Path> {
        let mut paths = Vec::new();
        for at in 0..self.tokens.len() {
            if self.tokens[at].is_word && (at == 0 || self.tokens[at - 1].text != "::") {
                self.follow(at, &[], &mut paths);
            }
        }
        paths
    }

    /// Reads the path that begins at `at` behind `before`.
    fn follow(&self, mut at: usize, before: &[String], paths: &mut Vec<Path>) {
        let first = &self.tokens[at];
        let mut segments = before.to_vec();
        let text = |at: usize| self.tokens.get(at).map_or("", |token| token.text.as_str());
        while self.tokens.get(at).is_some_and(|token| token.is_word) {
            segments.push(self.tokens[at].text.clone());
            if text(at + 1) != "::" {
                break;
            }
            at += 2;
        }
        if text(at) == "{" && at > 0 && text(at - 1) == "::" {
            let last = self.closing(at);
            let mut nesting = 0usize;
            for inner in at + 1..last {
                match text(inner) {
                    "{" => nesting += 1,
                    "}" => nesting -= 1,
                    _ if nesting == 0 && matches!(text(inner - 1), "{" | ",") => self.follow(inner, &segments, paths),
                    _ => {}
                }
            }
            return;
        }
        paths.push(Path { segments, line: first.line, is_test: first.is_test, depth: first.depth });
    }
}

/// What follows the last dot of a path's last part.
pub(super) fn ending(path: &str) -> &str {
    let name = path.rsplit('/').next().unwrap_or("");
    name.rsplit_once('.').map_or("", |(_, ending)| ending)
}

/// Puts the tokens of a stream in a row. An item behind an attribute `cfg(test)` is a test's.
fn flatten(stream: TokenStream, is_test: bool, depth: usize, into: &mut Vec<Token>) {
    let trees: Vec<TokenTree> = stream.into_iter().collect();
    let mut item_is_test = false;
    for (at, tree) in trees.iter().enumerate() {
        let is_test = is_test || item_is_test;
        let token = |text: String, line, is_word| Token { text, line, is_word, is_test, depth };
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::None => ("", ""),
                };
                let in_module = group.delimiter() == Delimiter::Brace && is_word_at(&trees, at.wrapping_sub(2), "mod");
                into.push(token(open.into(), line, false));
                flatten(group.stream(), is_test, depth + usize::from(in_module), into);
                into.push(token(close.into(), group.span_close().start().line, false));
                let attribute = group.delimiter() == Delimiter::Bracket && is_punct_at(&trees, at.wrapping_sub(1), '#');
                if attribute {
                    item_is_test |= is_cfg_test(&group.stream());
                } else if group.delimiter() == Delimiter::Brace {
                    item_is_test = false;
                }
            }
            TokenTree::Punct(punct) => match punct.as_char() {
                ':' if is_joint_colon(&trees, at.wrapping_sub(1)) => {}
                ':' if punct.spacing() == Spacing::Joint => into.push(token("::".into(), line, false)),
                other => {
                    into.push(token(other.into(), line, false));
                    item_is_test &= other != ';';
                }
            },
            TokenTree::Ident(word) => into.push(token(word.to_string(), line, true)),
            TokenTree::Literal(literal) => into.push(token(literal.to_string(), line, false)),
        }
    }
}

fn is_word_at(trees: &[TokenTree], at: usize, text: &str) -> bool {
    matches!(trees.get(at), Some(TokenTree::Ident(word)) if word == text)
}

fn is_punct_at(trees: &[TokenTree], at: usize, text: char) -> bool {
    matches!(trees.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == text)
}

fn is_joint_colon(trees: &[TokenTree], at: usize) -> bool {
    matches!(trees.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == ':' && punct.spacing() == Spacing::Joint)
}

/// Whether an attribute is `cfg(test)`, or an `all` of it and others.
fn is_cfg_test(attribute: &TokenStream) -> bool {
    let text: String = attribute.to_string().split_whitespace().collect();
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}
