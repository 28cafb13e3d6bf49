//! A visitor's browser: Chromium, Firefox or WebKitGTK, as Debian has them, without a window.
//!
//! `tests/browser/hands.mjs` drives it. The rule kept here: whatever is asked is answered in time, or the test fails
//! saying what was asked; and no browser outlives its test.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use super::{test_env, workspace};

/// More than a browser takes to start on a busy machine, and than `hands.mjs` takes to give up.
const PATIENCE: Duration = Duration::from_secs(60);

/// Which browser.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Chromium.
    Chromium,
    /// Firefox.
    Firefox,
    /// WebKitGTK's MiniBrowser, on a virtual display. All its visitors are the same one, and its console is not heard.
    Webkit,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Firefox => "firefox",
            Self::Webkit => "webkit",
        }
    }
}

/// How something is clicked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The left button.
    Left,
    /// The middle button.
    Middle,
    /// The right button.
    Right,
    /// The left button with a key held.
    Ctrl,
    /// The left button with a key held.
    Shift,
    /// The left button with a key held.
    Meta,
    /// The focus and the key Enter.
    Enter,
}

impl How {
    fn word(self) -> &'static str {
        match self {
            Self::Left => "left",
            Self::Middle => "middle",
            Self::Right => "right",
            Self::Ctrl => "ctrl",
            Self::Shift => "shift",
            Self::Meta => "meta",
            Self::Enter => "enter",
        }
    }
}

/// What a page said on its console.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The address of the page.
    pub page: String,
    /// `error: …`, `uncaught: …` and the like.
    pub text: String,
}

/// A running browser. It ends when this and its last tab are dropped.
pub struct Browser {
    name: String,
    hands: Rc<RefCell<Hands>>,
}

impl Browser {
    /// Starts one with a new profile.
    pub fn start(kind: Kind) -> Self {
        let script = workspace().join("collector/tests/browser/hands.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(test_env("node_modules")).arg(kind.word());
        // where its profile is, so that it is gone also if the script is killed
        let folder = tempfile::tempdir().expect("a temporary folder");
        command.env("TMPDIR", folder.path());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("node runs");
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take().expect("it is piped"));
        let (say, answers) = channel();
        // ends with the pipe
        thread::spawn(move || BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        let mut hands = Hands { child, stdin, answers, _folder: folder };
        let ready = hands.hear(&format!("{kind:?} to start"));
        let name = ready["ready"].as_str().unwrap_or_else(|| panic!("{kind:?} does not start: {ready}")).to_owned();
        Self { name, hands: Rc::new(RefCell::new(hands)) }
    }

    /// What it calls itself, with its version.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new tab, with a page that is there as a whole.
    pub fn open(&self, url: &str) -> Tab {
        self.tab(&json!({"do": "open", "url": url}))
    }

    /// All tabs that are open, with their addresses.
    pub fn tabs(&self) -> Vec<(Tab, String)> {
        let tabs = self.hands.borrow_mut().ask(&json!({"do": "tabs"}));
        let tabs = tabs.as_array().expect("tabs are a list").iter();
        tabs.map(|tab| (self.numbered(&tab["tab"]), tab["url"].as_str().unwrap_or_default().to_owned())).collect()
    }

    fn tab(&self, request: &Value) -> Tab {
        let number = self.hands.borrow_mut().ask(request);
        self.numbered(&number)
    }

    fn numbered(&self, number: &Value) -> Tab {
        Tab { number: number.as_u64().expect("tabs have numbers"), hands: Rc::clone(&self.hands) }
    }
}

/// A tab of a browser.
pub struct Tab {
    number: u64,
    hands: Rc<RefCell<Hands>>,
}

impl Tab {
    /// Goes to a page, and waits until that is there as a whole.
    pub fn go(&self, url: &str) {
        self.ask("go", json!({"url": url}));
    }

    /// Goes back to the page before.
    pub fn back(&self) {
        self.ask("back", json!({}));
    }

    /// Brings it before the others.
    pub fn front(&self) {
        self.ask("front", json!({}));
    }

    /// Ends it.
    pub fn close(&self) {
        self.ask("close", json!({}));
    }

    /// Clicks on an element, and waits for nothing that comes of it. `>>>` in the selector goes into open shadow roots.
    pub fn click(&self, selector: &str, how: How) {
        self.ask("click", json!({"selector": selector, "how": how.word()}));
    }

    /// Moves the mouse over the first element that this selects, each time elsewhere.
    pub fn hover(&self, selector: &str) {
        self.ask("hover", json!({"selector": selector}));
    }

    /// Whether it gets to an address that begins so, in time.
    pub fn wait_url(&self, starts: &str, time: Duration) -> bool {
        self.ask("wait_url", json!({"starts": starts, "timeout_ms": time.as_millis()})) == true
    }

    /// The value of an expression in the page, awaited if it is a promise.
    pub fn eval(&self, js: &str) -> Value {
        self.ask("eval", json!({"js": js}))
    }

    /// What its pages said on the console so far.
    pub fn console(&self) -> Vec<Said> {
        let said = self.ask("console", json!({}));
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        said.as_array()
            .expect("a list")
            .iter()
            .map(|said| Said { page: text(&said["page"]), text: text(&said["text"]) })
            .collect()
    }

    /// How many cookies its visitor has, of whichever site.
    pub fn cookies(&self) -> u64 {
        self.ask("cookies", json!({})).as_u64().expect("a number")
    }

    /// How many layouts its page has had. Of Chromium only.
    pub fn layouts(&self) -> u64 {
        self.ask("layouts", json!({}))["layouts"].as_u64().expect("Chromium counts them")
    }

    fn ask(&self, what: &str, mut request: Value) -> Value {
        request["do"] = what.into();
        request["tab"] = self.number.into();
        self.hands.borrow_mut().ask(&request)
    }
}

/// The process that drives the browser.
struct Hands {
    child: Child,
    /// Taken when it is to end.
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    _folder: tempfile::TempDir,
}

impl Hands {
    fn ask(&mut self, request: &Value) -> Value {
        let stdin = self.stdin.as_mut().expect("it is to end when nobody asks any more");
        writeln!(stdin, "{request}").unwrap_or_else(|error| panic!("{request}: the browser is gone: {error}"));
        let answer = self.hear(&request.to_string());
        assert!(answer["error"].is_null(), "{request}: {}", answer["error"]);
        answer["ok"].clone()
    }

    fn hear(&mut self, what: &str) -> Value {
        let line = self.answers.recv_timeout(PATIENCE).unwrap_or_else(|error| panic!("{what}: no answer: {error}"));
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{what}: {error}: {line}"))
    }
}

impl Drop for Hands {
    fn drop(&mut self) {
        // it ends the browser and itself when it is asked no more
        drop(self.stdin.take());
        let _ = self.child.wait();
    }
}
