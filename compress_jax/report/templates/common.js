'use strict';
/* Shared by the scripts below: the data, short helpers, the theme. */
const report = (() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId('data').textContent);
  const prefersDark = matchMedia('(prefers-color-scheme: dark)');
  const listeners = [];
  const names = {auto: 'Auto', light: 'Light', dark: 'Dark'};
  let theme = 'auto';

  /* Storage is refused to some files opened from disk; the choice then lasts until reload. */
  function stored(value) {
    try {
      if (value) localStorage.setItem('theme', value);
      return localStorage.getItem('theme');
    } catch {
      return null;
    }
  }

  function isDark() {
    return theme === 'dark' || (theme === 'auto' && prefersDark.matches);
  }

  function setTheme(value) {
    theme = value in names ? value : 'auto';
    document.documentElement.dataset.theme = isDark() ? 'dark' : 'light';
    byId('theme-name').textContent = names[theme];
    listeners.forEach((listener) => listener());
  }

  function fill(select, pairs) {
    select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  }

  byId('theme').addEventListener('click', () => {
    const next = {auto: isDark() ? 'light' : 'dark', light: 'dark', dark: 'auto'}[theme];
    stored(next);
    setTheme(next);
  });
  prefersDark.addEventListener('change', () => setTheme(theme));
  setTheme(stored());
  return {byId, data, fill, isDark, onTheme: (listener) => listeners.push(listener)};
})();
