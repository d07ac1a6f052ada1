const find = (name) => element.querySelector(name);

function make(tag, attributes, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

// Uploads the files that are chosen or dropped. The server sees them as value.uploads, and others
// of the new value's properties come from `more`.
let tooLarge = '';

function receive(more = () => ({})) {
  const input = find('.ff-file'), target = find('.ff-target');
  input.accept = props.value.accept;

  async function take(files) {
    const {limit} = props.value, uploads = [];
    const large = files.filter((file) => file.size > limit);
    const small = files.filter((file) => file.size <= limit);
    tooLarge = large.map((file) => `${file.name} is larger than ${limit / 1e6} MB, the limit.`).join(' ');
    complain('');
    try {
      for (const file of small) {
        const count = small.length > 1 ? ` (${uploads.length + 1} of ${small.length})` : '';
        find('.ff-caption').textContent = `Reading ${file.name}${count} …`;
        const {path} = await upload(file);
        uploads.push({path, name: file.name});
      }
    } catch (error) {
      find('.ff-caption').textContent = '';
      return complain(`The files could not be uploaded: ${error.message}.`);
    }
    if (!uploads.length) return;
    props.value = {...props.value, ...more(), uploads};
    trigger('upload');
  }

  input.addEventListener('change', () => { take([...input.files]); input.value = ''; });
  for (const name of ['dragover', 'dragleave', 'drop']) {
    target.addEventListener(name, (event) => {
      event.preventDefault();
      target.classList.toggle('ff-over', name === 'dragover');
      if (name === 'drop') take([...event.dataTransfer.files].slice(0, input.multiple ? Infinity : 1));
    });
  }
}

function complain(error) {
  find('.ff-error').textContent = [error, tooLarge].filter(Boolean).join(' ');
}

// Shows a value of the server's, now and whenever it changes; one with uploads is not from there.
function shows(show) {
  watch('value', () => { if (!props.value.uploads) show(props.value); });
  show(props.value);
}
