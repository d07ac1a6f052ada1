// The photos of a batch. value: {limit, names, error}
const clear = find('.ff-clear');
clear.addEventListener('click', () => { trigger('clear'); find('.ff-file').focus(); });
receive();
shows(({names, error}) => {
  clear.hidden = !names.length;
  find('.ff-caption').textContent = names.length ? `${names.length} ${names.length > 1 ? 'photos' : 'photo'}` : '';
  find('ul').replaceChildren(...names.map((textContent) => make('li', {textContent})));
  complain(error);
});
