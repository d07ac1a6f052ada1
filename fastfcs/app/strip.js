// The last results with their settings. value: {results: [{thumb, title, text}], current}
shows(({results, current}) => {
  const list = find('.ff-strip');
  const focused = [...list.children].findIndex((item) => item.contains(document.activeElement));
  find('.ff-results').hidden = !results.length;
  list.replaceChildren(...results.map(({thumb, title, text}, index) => {
    const caption = make('span', {}, make('strong', {textContent: title}), make('br', {}), text);
    const button = make('button', {type: 'button'}, make('img', {src: thumb, alt: ''}), caption);
    button.setAttribute('aria-pressed', index === current);
    button.addEventListener('click', () => trigger('select', {index}));
    return make('li', {}, button);
  }));
  if (focused >= 0) list.children[focused].firstChild.focus();
});
