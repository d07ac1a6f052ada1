// Uploads one picture, and shows what the server has read. value: {name, caption, thumb, error}
const find = (name) => element.querySelector(name);
const input = find('.ff-file'), target = find('.ff-target'), image = find('img');

async function take(file) {
  if (!file) return;
  find('.ff-error').textContent = '';
  find('.ff-caption').textContent = `Reading ${file.name} …`;
  const {limit} = props.value;
  try {
    if (file.size > limit) throw new Error(`${file.name} is larger than ${limit / 1e6} MB, the limit.`);
    const {path} = await upload(file);
    const uploads = [{path, orig_name: file.name, meta: {_type: 'gradio.FileData'}}];
    props.value = {...props.value, uploads};
    trigger('upload');
  } catch (error) {
    show({...props.value, error: error.message});
  }
}

function show(value) {
  image.hidden = !value.thumb;
  if (value.thumb) image.src = value.thumb;
  target.classList.toggle('ff-filled', Boolean(value.thumb));
  find('.ff-caption').textContent = value.caption || '';
  find('.ff-error').textContent = value.error || '';
}

input.addEventListener('change', () => { take(input.files[0]); input.value = ''; });
for (const name of ['dragover', 'dragleave', 'drop']) {
  target.addEventListener(name, (event) => {
    event.preventDefault();
    target.classList.toggle('ff-over', name === 'dragover');
    if (name === 'drop') take(event.dataTransfer.files[0]);
  });
}
watch('value', () => { if (!props.value.uploads) show(props.value); });
show(props.value);
