// A command to copy. value: {command}
const text = find('textarea'), status = find('span');

find('button').addEventListener('click', () => {
  text.select();  // the clipboard of browsers takes nothing from pages without TLS
  status.textContent = document.execCommand('copy') ? 'Copied' : 'Press Ctrl-C';
});
shows(({command}) => {
  text.value = command || 'Choose a photo and a style first.';
  status.textContent = '';
});
