// The shop: ?book=… shows that book, made from its link on the shelf. Nothing in here is needed for its links to work.

// Calls that come before the client is loaded wait in q.
window.tallylight = window.tallylight || function () { (tallylight.q = tallylight.q || []).push(arguments); };

(function () {
  var links = Array.from(document.querySelectorAll('a[data-item]'));
  var link = links.find(function (a) { return a.search === location.search; });
  tallylight('view', { item: link && link.dataset.item });
  if (!link) return;
  var book = document.getElementById('book'), cover = link.querySelector('.cover');
  var title = cover.querySelector('b').textContent, author = cover.querySelector('i').textContent;
  book.querySelector('.cover').className = cover.className;
  book.querySelector('.cover b').textContent = book.querySelector('h1').textContent = title;
  book.querySelector('.cover i').textContent = book.querySelector('.author').textContent = author;
  book.querySelector('.about').textContent = link.dataset.about;
  book.querySelector('.price').textContent = link.dataset.price;
  document.title = title + ' · The Quiet Shelf';
  document.getElementById('shop').hidden = true;
  book.hidden = false;
  document.getElementById('shelf').textContent = 'Others on this shelf';
  link.parentElement.remove();
  links.forEach(function (a) { a.dataset.placement = 'same-shelf'; });
})();
