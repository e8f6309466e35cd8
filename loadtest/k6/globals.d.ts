// k6 has a console; its types leave it to the DOM's, which k6 does not have.
declare const console: {
  log(...words: unknown[]): void;
  error(...words: unknown[]): void;
};
