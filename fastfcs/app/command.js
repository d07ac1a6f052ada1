// A command to copy. value: {command}
const text = element.querySelector('textarea'), status = element.querySelector('span');

element.querySelector('button').addEventListener('click', () => {
  text.select();  // the clipboard of browsers takes nothing from pages without TLS
  status.textContent = document.execCommand('copy') ? 'Copied' : 'Press Ctrl-C';
});

function show({command}) {
  text.value = command || 'Choose a photo and a style first.';
  status.textContent = '';
}

watch('value', () => show(props.value));
show(props.value);
