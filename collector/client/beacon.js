// Tallylight's client: counts clicks on links, and never stands in their way.
//
//   <script async src="https://collector.example/beacon.js" data-site="books"></script>
//
// A click becomes an event with an id of its own. It is written to the page's own localStorage under a key of its own, sent,
// and forgotten once the collector has answered that it has it, or that it never will. What is left is sent again on the
// next view; the id makes that harmless. Nothing here calls preventDefault, changes a link, waits, throws, or writes to the
// console.
//
// README.md beside this file says what it does for whom. beacon.min.js is made of this by minify.mjs and fits into 1,024
// bytes gzipped, which explains the style: few functions, and `var`, of which a minifier can make more.
(() => {
  try {
    // Whatever goes wrong in here is no trouble of the page's.
    var safely = act => async given => {
      try {
        await act(given);
      } catch {}
    };
    var on = (type, act) => addEventListener(type, safely(act), 1);
    // A page that is only being prepared has no visitor yet, and what it sends would be refused.
    var whenSeen = act => document.prerendering ? on('prerenderingchange', act) : safely(act)();

    var script = document.currentScript;
    var settings = script.dataset;
    var name = settings.name || 'tallylight';
    var collector = new URL('api/beacon', settings.to || script.src || location);
    // Joined by commas wherever it is used as text.
    var prefix = ['tallylight', settings.site, collector, ''];

    // Where events wait. Where there is no storage, or no more of it, they wait as long as this page lives.
    var spool = {};
    try {
      spool = localStorage || spool;
    } catch {}

    // Milliseconds since an event was made: by the clock that nobody sets if this page made it, else by what its id says.
    var age = key => performance.now() - age[key] || new Date - ('0x' + key.slice(-32, -20));

    // With elements, makes an event and sends it; without, sends again what waits.
    var send = async (event, fields, elements, room = 30000, lost = 0) => {
      // Those that may still be sent. The others are given up, and the event that is being made says how many they are:
      // after 5 days, because the collector knows an id for 7, and beyond 30,000 bytes, because all that a page sends
      // while it goes away shares 64 KiB, and most of that is the page's own.
      var keys = Object.keys(spool).filter(key => !key.indexOf(prefix) && (
        age(key) < 432e6 && room > spool[key].length && (room -= spool[key].length) ||
        elements && (lost -= ~spool[key].match(/\d+/), !delete spool[key])));
      if (elements) {
        // a UUID of version 7; what is added to the time makes it 12 digits with a 1 before them, whatever the clock says
        var id = ((2 ** 48 + +new Date).toString(16) + 70008 + crypto.getRandomValues(new Uint32Array(3)).join('')).slice(1, 33);
        var key = prefix + id;
        // `lost` stands first, which is where it is looked for above
        var words = {lost, id, event, site: settings.site ?? '', page: location.origin + location.pathname};
        for (var word of ['item', 'placement', 'value', 'visitor']) {
          [...elements, script].map(element => words[word] ||= element.dataset[word] ?? '');
        }
        // the word is a common one for other things: what is no number, or too large, would cost the click
        words.value < 9e9 || (words.value = '');
        for (word of Object.keys({...fields})) words[word] = fields[word] ?? '';
        var text = '' + new URLSearchParams(words);
        try {
          spool[key] = text;
        } catch {
          spool = {[key]: text};
        }
        age[key] = performance.now();
        keys = [key];
      }
      var body = keys.map(key => spool[key] + '&age=' + age(key)).join('\n');
      try {
        // the first time the page may be about to go, and would take a request without keepalive with it
        if (!elements || 'keepalive' in Request.prototype) {
          return body &&
            /^(2|4(?!08|25|29))/.test((await fetch(collector, {method: 'POST', body, keepalive: 1})).status) &&
            keys.map(key => delete spool[key]);
        }
      } catch {}
      // Whether this arrives nobody says, so it is not forgotten; and what is not new has been tried before.
      navigator.sendBeacon?.(collector, body) || elements && (new Image().src = collector + '?' + body);
    };

    // One listener for all links, those to come and those in open shadow roots included. Given the click alone: the others
    // are variables.
    var onClick = (
      click,
      link,
      // the link and what is around it, up to the document
      elements = click.composedPath().filter(element => element.matches && (link ||= element.matches(':any-link') && element)),
      // in SVG, an href is an object
      target = new URL(link.href.baseVal || link.href, link.baseURI)
    ) =>
      // A script's click is nobody's. The middle button is 1. No host is called `all`. The same script twice is one.
      click.isTrusted && click.button < 2 && /^http/.test(target) &&
        (settings.links || location.host) != target.host && (click[prefix] ||= send('click', {target}, elements));

    // What waits is sent before anything new is made.
    whenSeen(() => {
      on('click', onClick);
      on('auxclick', onClick);
      on('online', send);
      // back from the back/forward cache
      on('pageshow', event => event.persisted && send());
      return send();
    });

    // The page's stub keeps calls in `q`, if it has any. Of a client that was here before, `q` is 0.
    var before = self[name];
    if (before?.q !== 0) {
      var api = self[name] = (event, fields) => whenSeen(() => send(event, fields, []));
      api.q = 0;
      before?.q?.map(call => api(...call));
    }
  } catch {}
})();
