// Chooses styles and their weights. value: {chosen: [{name, thumb, weight, preset}], presets, error}
const find = (name) => element.querySelector(name);
const input = find('.ff-file'), target = find('.ff-target'), blend = find('.ff-blend');

function make(tag, attributes, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

async function take(files) {
  if (!files.length) return;
  find('.ff-error').textContent = '';
  const {limit} = props.value;
  try {
    const uploads = [];
    target.classList.add('ff-busy');
    for (const file of files) {
      if (file.size > limit) throw new Error(`${file.name} is larger than ${limit / 1e6} MB, the limit.`);
      const {path} = await upload(file);
      uploads.push({path, orig_name: file.name, meta: {_type: 'gradio.FileData'}});
    }
    props.value = {...props.value, uploads, blend: blend.checked};
    trigger('upload');
  } catch (error) {
    find('.ff-error').textContent = error.message;
  }
  target.classList.remove('ff-busy');
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
    item.append(weight);
  }
  return item;
}

function preset({name, title, short, thumb}) {
  const button = make('button', {type: 'button', title, value: name}, make('img', {src: thumb, alt: ''}), make('span', {textContent: short}));
  button.addEventListener('click', () => trigger('select', {name, blend: blend.checked}));
  return button;
}

// Lists are made anew only if they differ, since what has the focus would lose it.
function show(value) {
  const list = find('.ff-chosen'), presets = find('.ff-presets');
  const names = value.chosen.map((style) => style.name).join('\n');
  if (names !== list.dataset.names) {
    const hadFocus = list.contains(document.activeElement);
    list.dataset.names = names;
    list.hidden = !names;
    list.replaceChildren(...value.chosen.map(chosen));
    if (hadFocus) (find('.ff-remove') || input).focus();
  }
  if (!presets.children.length) presets.replaceChildren(...value.presets.map(preset));
  const pressed = new Set(value.chosen.map((style) => style.preset));
  for (const button of presets.children) button.setAttribute('aria-pressed', pressed.has(button.value));
  find('.ff-error').textContent = value.error || '';
  if (value.chosen.length > 1) blend.checked = true;
}

input.addEventListener('change', () => { take([...input.files]); input.value = ''; });
for (const name of ['dragover', 'dragleave', 'drop']) {
  target.addEventListener(name, (event) => {
    event.preventDefault();
    target.classList.toggle('ff-over', name === 'dragover');
    if (name === 'drop') take([...event.dataTransfer.files]);
  });
}
watch('value', () => { if (!props.value.uploads) show(props.value); });
show(props.value);
