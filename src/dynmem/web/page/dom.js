// Elements of the page. Whatever comes from outside goes in as text, and an element that stays the same is not touched.

export function find(id) {
  return document.getElementById(id);
}

export function make(tag, attributes = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...inside);
  return made;
}

export function say(element, words) {
  if (element.textContent !== words) element.textContent = words;
}

export function mark(element, name, value) {
  if (element.getAttribute(name) !== value) element.setAttribute(name, value);
}

export function show(element, isShown) {
  if (element.hidden === isShown) element.hidden = !isShown;
}

// Sets a length by the object model: the page's rules allow no style in its text.
export function place(element, property, value) {
  if (element.style.getPropertyValue(property) !== value) element.style.setProperty(property, value);
}

// Sets the children to these, in this order, and moves only those that are elsewhere.
export function arrange(parent, wanted) {
  const focused = document.activeElement;
  let next = parent.firstElementChild;
  for (const each of wanted) {
    if (each === next) next = next.nextElementSibling;
    else parent.insertBefore(each, next);
  }
  while (next) {
    const rest = next.nextElementSibling;
    next.remove();
    next = rest;
  }
  // What is moved loses the focus.
  if (focused && focused !== document.activeElement && parent.contains(focused)) focused.focus({ preventScroll: true });
}
