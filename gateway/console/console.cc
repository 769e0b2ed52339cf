#include "gateway/console/console.h"

#include "gateway/console/files.h"

namespace conclave {
namespace {

const ConsoleFile kFiles[] = {
    {"/", "text/html; charset=utf-8", embedded::kIndexHtml},
    {"/console.css", "text/css; charset=utf-8", embedded::kConsoleCss},
    {"/console.js", "text/javascript; charset=utf-8", embedded::kConsoleJs},
    {"/tokens.js", "text/javascript; charset=utf-8", embedded::kTokensJs},
};

}  // namespace

const ConsoleFile* FindConsoleFile(absl::string_view path) {
  for (const ConsoleFile& file : kFiles) {
    if (file.path == path) return &file;
  }
  return nullptr;
}

}  // namespace conclave
