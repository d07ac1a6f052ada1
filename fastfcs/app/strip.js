// The last results with their settings. value: {results: [{thumb, title, text}], current}
const list = element.querySelector('.ff-strip');

function show({results, current}) {
  element.querySelector('.ff-results').hidden = !results.length;
  list.replaceChildren(...results.map(({thumb, title, text}, index) => {
    const button = Object.assign(document.createElement('button'), {type: 'button'});
    const image = Object.assign(document.createElement('img'), {src: thumb, alt: ''});
    const caption = document.createElement('span');
    const heading = Object.assign(document.createElement('strong'), {textContent: title});
    caption.append(heading, document.createElement('br'), text);
    button.append(image, caption);
    button.setAttribute('aria-pressed', index === current);
    button.addEventListener('click', () => trigger('select', {index}));
    const item = document.createElement('li');
    item.append(button);
    return item;
  }));
}

watch('value', () => show(props.value));
show(props.value);
