//! What counts as a click.

use super::{BROWSERS, Shop, page};
use crate::harness::browser::{How, Kind};
use crate::harness::wait_for;

/// A link each for whatever can be done with one. None of them leaves the page, so that all can be clicked there.
const LINKS: &str = r##"
    <style>a, svg { display: block; width: 200px; height: 20px }</style>
    <a id="left" target="_blank" href="ELSEWHERE/1" data-item="left">x</a>
    <a id="middle" href="ELSEWHERE/2" data-item="middle">x</a>
    <a id="ctrl" href="ELSEWHERE/3" data-item="ctrl">x</a>
    <a id="shift" href="ELSEWHERE/4" data-item="shift">x</a>
    <a id="enter" target="_blank" href="ELSEWHERE/5" data-item="enter">x</a>
    <a id="inside" target="_blank" href="ELSEWHERE/6" data-item="inside"><b><i id="deep">x</i></b></a>
    <svg id="svg" viewBox="0 0 200 20"><a target="_blank" href="ELSEWHERE/7" data-item="svg"><rect id="rect" width="200" height="20"/></a></svg>
    <svg viewBox="0 0 200 20"><a target="_blank" xlink:href="ELSEWHERE/8" data-item="xlink" xmlns:xlink="http://www.w3.org/1999/xlink"><rect id="xrect" width="200" height="20"/></a></svg>
    <div id="open" data-item="shadow"></div>
    <div id="later"></div>
    <a id="right" href="ELSEWHERE/9" data-item="right">x</a>
    <a id="faked" target="_blank" href="ELSEWHERE/10" data-item="faked">x</a>
    <a id="mail" href="mailto:a@shop.example" data-item="mail">x</a>
    <a id="script" href="javascript:void 0" data-item="script">x</a>
    <a id="same" target="_blank" href="/same" data-item="same">x</a>
    <a id="hash" href="#hash" data-item="hash">x</a>
    <a id="port" target="_blank" href="http://127.10.0.1:1/" data-item="port">x</a>
    <b id="nothing" data-item="nothing">x</b>
    <a id="none" data-item="none">x</a>
    <a id="prevented" href="ELSEWHERE/11" data-item="prevented" onclick="event.stopImmediatePropagation(); return false">x</a>
    <script>
      document.querySelector('#open').attachShadow({ mode: 'open' }).innerHTML =
        '<p><a id="shadowed" target="_blank" href="ELSEWHERE/12" style="display: block; height: 20px">x</a></p>';
    </script>"##;

#[test]
fn every_kind_of_click_on_a_link_to_another_host_counts_once_and_nothing_else_does() {
    for kind in BROWSERS {
        let shop = Shop::open(kind, |_| page(LINKS));
        let tab = shop.visit("/");
        tab.eval("document.querySelector('#later').innerHTML = \
                  `<a id=\"added\" target=\"_blank\" href=\"${document.querySelector('#left').href}\" data-item=\"added\">x</a>`");
        let click = |selector: &str, how| {
            tab.front();
            tab.click(selector, how);
        };
        click("#right", How::Right);
        tab.eval("document.querySelector('#faked').click()");
        tab.eval(
            "document.querySelector('#faked').dispatchEvent(new MouseEvent('click', { bubbles: true, button: 0 }))",
        );
        for selector in ["#script", "#hash", "#same", "#nothing", "#none"] {
            click(selector, How::Left);
        }
        // nobody has a program for mail here
        tab.eval("addEventListener('click', event => event.target.id == 'mail' && event.preventDefault())");
        click("#mail", How::Left);
        for (selector, how) in [
            ("#left", How::Left),
            ("#middle", How::Middle),
            ("#ctrl", How::Ctrl),
            ("#shift", How::Shift),
            ("#enter", How::Enter),
            ("#deep", How::Left),
            ("#rect", How::Left),
            ("#xrect", How::Left),
            ("#open >>> #shadowed", How::Left),
            ("#added", How::Left),
            ("#prevented", How::Left),
            // another port is another host
            ("#port", How::Left),
        ] {
            click(selector, how);
        }
        let mut counted = shop.items_until("port");
        // their requests may pass each other
        counted.sort();
        let mut expected = [
            "left",
            "middle",
            "ctrl",
            "shift",
            "enter",
            "inside",
            "svg",
            "xlink",
            "shadow",
            "added",
            "prevented",
            "port",
        ];
        expected.sort_unstable();
        wait_for("all clicks", || (shop.events().len() >= expected.len()).then_some(()));
        let mut counted: Vec<String> = shop.items_until("port");
        counted.sort();
        assert_eq!(counted, expected, "{}", shop.browser.name());
        for event in shop.events() {
            assert_eq!((&event["event"], &event["site"]), (&"click".into(), &"books".into()), "{event}");
        }
        shop.assert_quiet(&[&tab]);
    }
}

#[test]
fn a_click_with_meta_held_counts() {
    for kind in BROWSERS {
        let shop = Shop::open(kind, |_| page("<a id=link href=\"ELSEWHERE/\" data-item=meta target=_blank>x</a>"));
        let tab = shop.visit("/");
        tab.click("#link", How::Meta);
        assert_eq!(shop.items_until("meta"), ["meta"]);
    }
}

#[test]
fn all_links_count_where_the_script_says_all() {
    for kind in BROWSERS {
        let shop = Shop::open(kind, |path| match path {
            "/" => super::page_with(
                "<script data-site=books data-links=all data-to=COLLECTOR>CLIENT</script>",
                "<a id=same href=/next data-item=same target=_blank>x</a> <a id=hash href=#a data-item=hash>x</a> \
                 <a id=mail href=mailto:a@b data-item=mail onclick=\"return false\">x</a>",
            ),
            _ => super::page_with("", ""),
        });
        let tab = shop.visit("/");
        tab.click("#mail", How::Left);
        tab.click("#hash", How::Left);
        // each has a connection of its own, and the second one might be faster
        shop.items_until("hash");
        tab.click("#same", How::Left);
        assert_eq!(shop.items_until("same"), ["hash", "same"], "{}", shop.browser.name());
    }
}

#[test]
fn nothing_is_left_behind_on_a_page() {
    let shop = Shop::open(Kind::Chromium, |path| match path {
        "/with" => page(""),
        _ => super::page_with("", ""),
    });
    let globals = "Object.keys(window).sort()";
    let (with, without) = (shop.visit("/with").eval(globals), shop.visit("/without").eval(globals));
    let (with, without) = (with.as_array().unwrap(), without.as_array().unwrap());
    let added: Vec<_> = with.iter().filter(|name| !without.contains(name)).collect();
    assert_eq!(added, ["tallylight"]);
    assert!(without.iter().all(|name| with.contains(name)));
}
