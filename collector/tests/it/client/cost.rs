//! What the client costs a page with 5,000 links.

use super::{BROWSERS, Shop, page_with};
use crate::harness::browser::{How, Kind};
use crate::harness::site::Page;
use crate::harness::wait_for;

const CLIENT: &str = "<script data-site=\"books\" data-to=\"COLLECTOR\">CLIENT</script>";

/// Notes the listeners that this adds, the time that it takes, and the time that its click handler takes, which runs
/// between two others. Each of these two leaves something to lay out, so that a look at it from between them is a layout
/// more.
fn big_page(this: &str) -> Page {
    let links: String = (0..5_000)
        .map(|i| {
            format!(
                "<p><a id=\"l{i}\" href=\"ELSEWHERE/{i}\" onclick=\"return false\" data-item=\"{i}\">a book</a></p>"
            )
        })
        .collect();
    page_with(
        "",
        &format!(
            "{links}
            <script>
              var added = [], add = EventTarget.prototype.addEventListener, times = [], began, height = 0;
              var change = () => document.body.style.paddingTop = `${{++height % 9}}px`;
              var rest = () => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)));
              add.call(window, 'click', () => {{ change(); began = performance.now() }}, true);
              EventTarget.prototype.addEventListener = function (type, ...more) {{
                added.push([type, this === window]);
                return add.call(this, type, ...more);
              }};
              var start = performance.now();
            </script>
            {this}
            <script>
              start = performance.now() - start;
              EventTarget.prototype.addEventListener = add;
              add.call(window, 'click', () => {{ times.push(performance.now() - began); change() }}, true);
            </script>"
        ),
    )
}

#[test]
fn a_page_of_5000_links_has_four_listeners_more_and_none_on_a_link() {
    for kind in BROWSERS {
        let shop = Shop::open(kind, |_| big_page(CLIENT));
        let tab = shop.visit("/");
        let mut added: Vec<String> = serde_json::from_value(
            tab.eval("added.map(([type, onWindow]) => `${onWindow ? 'window' : 'elsewhere'} ${type}`)"),
        )
        .unwrap();
        added.sort();
        assert_eq!(added, ["window auxclick", "window click", "window online", "window pageshow"]);
    }
}

#[test]
fn neither_the_script_nor_its_click_handler_makes_a_layout() {
    let shop = Shop::open(Kind::Chromium, |path| {
        big_page(match path {
            "/client" => CLIENT,
            "/looks" => {
                "<script id=\"looks\">addEventListener('click', () => document.body.offsetHeight, true); document.body.offsetHeight</script>"
            }
            _ => "",
        })
    });
    let layouts = |path: &str| {
        let tab = shop.visit(path);
        let count = |act: &dyn Fn()| {
            tab.eval("rest()");
            let before = tab.layouts();
            act();
            tab.eval("rest()");
            tab.layouts() - before
        };
        // another element with the same text is run as it is put in
        let script = count(&|| {
            tab.eval(
                "(() => {
                   const found = document.querySelector('script[data-site], #looks'), script = document.createElement('script');
                   if (found) Object.assign(script.dataset, found.dataset);
                   script.text = found?.text ?? '';
                   change();
                   document.head.append(script);
                   change();
                 })()",
            );
        });
        let click = count(&|| {
            tab.click("#l7", How::Left);
            wait_for("the click", || (tab.eval("times.length") == 1).then_some(()));
        });
        (script, click)
    };
    let (script, click) = layouts("/without");
    assert_eq!(layouts("/client"), (script, click));
    // the first listener that looks is not the only one by now, but there is nothing left for the second to lay out
    assert_eq!(layouts("/looks"), (script + 1, click + 1), "a layout would have been seen");
    shop.items_until("7");
}

#[test]
fn what_the_client_costs_is_printed() {
    for kind in BROWSERS {
        let shop = Shop::open(kind, |_| big_page(CLIENT));
        let tab = shop.visit("/");
        let mut starts = Vec::new();
        for _ in 0..20 {
            tab.go(&shop.site.url(super::SHOP, "/"));
            starts.push(tab.eval("start").as_f64().unwrap());
        }
        for i in 0..30 {
            tab.click(&format!("#l{i}"), How::Left);
        }
        shop.events_until("29");
        let mut clicks: Vec<f64> = serde_json::from_value(tab.eval("times")).unwrap();
        assert_eq!(clicks.len(), 30);
        let figures = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            format!("median {:.2} ms, worst {:.2} ms", times[times.len() / 2], times[times.len() - 1])
        };
        println!(
            "{}, 5,000 links: script {} of {}; click handler {} of {}",
            shop.browser.name(),
            figures(&mut starts),
            starts.len(),
            figures(&mut clicks),
            clicks.len(),
        );
        shop.assert_quiet(&[&tab]);
    }
}
