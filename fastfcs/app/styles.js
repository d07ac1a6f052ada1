// The styles and their weights. value: {limit, chosen: [{name, thumb, weight, preset}], presets, error}
const blend = find('.ff-blend');

blend.addEventListener('change', () => { if (!blend.checked) trigger('clear'); });

function share(style, all) {
  return `${Math.round(100 * style.weight / (all.reduce((sum, {weight}) => sum + weight, 0) || 1))} %`;
}

function chosen(style, index, all) {
  const remove = make('button', {type: 'button', className: 'ff-remove', textContent: '×'});
  remove.setAttribute('aria-label', `Remove ${style.name}`);
  remove.addEventListener('click', () => trigger('delete', {index}));
  const item = make('li', {}, make('img', {src: style.thumb, alt: ''}), make('span', {textContent: style.name}), remove);
  if (all.length > 1) {
    const weight = make('input', {type: 'range', min: 0, max: 1, step: 0.05, value: style.weight});
    weight.setAttribute('aria-label', `Weight of ${style.name}`);
    weight.addEventListener('change', () => trigger('release', {index, weight: Number(weight.value)}));
    remove.before(make('output', {}));
    item.append(weight);
  }
  return item;
}

function preset({name, title, short, thumb}) {
  const button = make('button', {type: 'button', title, value: name}, make('img', {src: thumb, alt: ''}), make('span', {textContent: short}));
  button.addEventListener('click', () => trigger('select', {name, blend: blend.checked}));
  return button;
}

receive(() => ({blend: blend.checked}));
shows((value) => {
  const list = find('.ff-chosen'), presets = find('.ff-presets');
  // Lists are made anew only if they differ, since what has the focus would lose it.
  const key = JSON.stringify(value.chosen.map(({name, thumb}) => [name, thumb]));
  if (key !== list.dataset.key) {
    const hadFocus = list.contains(document.activeElement);
    const isFewer = value.chosen.length < list.children.length;
    blend.checked = value.chosen.length > 1 || (blend.checked && !isFewer);
    list.dataset.key = key;
    list.hidden = !value.chosen.length;
    list.replaceChildren(...value.chosen.map(chosen));
    if (hadFocus) (find('.ff-remove') || find('.ff-file')).focus();
  }
  list.querySelectorAll('output').forEach((output, k) => { output.textContent = share(value.chosen[k], value.chosen); });
  if (!presets.children.length) presets.replaceChildren(...value.presets.map(preset));
  const pressed = new Set(value.chosen.map((style) => style.preset));
  for (const button of presets.children) button.setAttribute('aria-pressed', pressed.has(button.value));
  find('.ff-caption').textContent = '';
  complain(value.error);
});
