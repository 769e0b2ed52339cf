// Which calls a template may make: the whole list, so that loading can refuse the others.
#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "moe/tokenizer/jinja/builtins.h"

namespace conclave::jinja {
namespace {

struct Signature {
  Callable kind;
  const char* name;
  size_t least, most;  // positional arguments, without the input of a filter, test or method
  const char* named;   // space-separated; "*" takes any
};

constexpr Signature kSignatures[] = {
    {Callable::kFilter, "abs", 0, 0, ""},
    {Callable::kFilter, "capitalize", 0, 0, ""},
    {Callable::kFilter, "count", 0, 0, ""},
    {Callable::kFilter, "d", 0, 2, "default_value boolean"},
    {Callable::kFilter, "default", 0, 2, "default_value boolean"},
    {Callable::kFilter, "first", 0, 0, ""},
    {Callable::kFilter, "int", 0, 1, "default"},
    {Callable::kFilter, "items", 0, 0, ""},
    {Callable::kFilter, "join", 0, 1, "d"},
    {Callable::kFilter, "last", 0, 0, ""},
    {Callable::kFilter, "length", 0, 0, ""},
    {Callable::kFilter, "list", 0, 0, ""},
    {Callable::kFilter, "lower", 0, 0, ""},
    {Callable::kFilter, "map", 0, 0, "attribute"},
    {Callable::kFilter, "rejectattr", 1, 3, ""},
    {Callable::kFilter, "replace", 2, 3, ""},
    {Callable::kFilter, "reverse", 0, 0, ""},
    {Callable::kFilter, "safe", 0, 0, ""},
    {Callable::kFilter, "selectattr", 1, 3, ""},
    {Callable::kFilter, "string", 0, 0, ""},
    {Callable::kFilter, "tojson", 0, 0, "indent ensure_ascii separators"},
    {Callable::kFilter, "trim", 0, 1, "chars"},
    {Callable::kFilter, "upper", 0, 0, ""},
    {Callable::kTest, "boolean", 0, 0, ""},
    {Callable::kTest, "defined", 0, 0, ""},
    {Callable::kTest, "divisibleby", 1, 1, ""},
    {Callable::kTest, "eq", 1, 1, ""},
    {Callable::kTest, "equalto", 1, 1, ""},
    {Callable::kTest, "even", 0, 0, ""},
    {Callable::kTest, "false", 0, 0, ""},
    {Callable::kTest, "float", 0, 0, ""},
    {Callable::kTest, "in", 1, 1, ""},
    {Callable::kTest, "integer", 0, 0, ""},
    {Callable::kTest, "iterable", 0, 0, ""},
    {Callable::kTest, "mapping", 0, 0, ""},
    {Callable::kTest, "ne", 1, 1, ""},
    {Callable::kTest, "none", 0, 0, ""},
    {Callable::kTest, "number", 0, 0, ""},
    {Callable::kTest, "odd", 0, 0, ""},
    {Callable::kTest, "sequence", 0, 0, ""},
    {Callable::kTest, "string", 0, 0, ""},
    {Callable::kTest, "true", 0, 0, ""},
    {Callable::kTest, "undefined", 0, 0, ""},
    {Callable::kFunction, "dict", 0, 0, "*"},
    {Callable::kFunction, "namespace", 0, 0, "*"},
    {Callable::kFunction, "raise_exception", 1, 1, ""},
    {Callable::kFunction, "range", 1, 3, ""},
    {Callable::kMethod, "append", 1, 1, ""},
    {Callable::kMethod, "capitalize", 0, 0, ""},
    {Callable::kMethod, "count", 1, 1, ""},
    {Callable::kMethod, "endswith", 1, 1, ""},
    {Callable::kMethod, "find", 1, 1, ""},
    {Callable::kMethod, "get", 1, 2, ""},
    {Callable::kMethod, "items", 0, 0, ""},
    {Callable::kMethod, "join", 1, 1, ""},
    {Callable::kMethod, "keys", 0, 0, ""},
    {Callable::kMethod, "lower", 0, 0, ""},
    {Callable::kMethod, "lstrip", 0, 1, ""},
    {Callable::kMethod, "pop", 0, 1, ""},
    {Callable::kMethod, "removeprefix", 1, 1, ""},
    {Callable::kMethod, "removesuffix", 1, 1, ""},
    {Callable::kMethod, "replace", 2, 3, ""},
    {Callable::kMethod, "rsplit", 0, 2, "sep maxsplit"},
    {Callable::kMethod, "rstrip", 0, 1, ""},
    {Callable::kMethod, "split", 0, 2, "sep maxsplit"},
    {Callable::kMethod, "startswith", 1, 1, ""},
    {Callable::kMethod, "strip", 0, 1, ""},
    {Callable::kMethod, "upper", 0, 0, ""},
    {Callable::kMethod, "values", 0, 0, ""},
};

const char* Noun(Callable kind) {
  switch (kind) {
    case Callable::kFilter:
      return "filter";
    case Callable::kTest:
      return "test";
    case Callable::kFunction:
      return "function";
    case Callable::kMethod:
      return "method";
  }
  return "call";
}

}  // namespace

const Value* Arguments::Find(size_t index, absl::string_view name) const {
  if (index < positional.size()) return &positional[index];
  for (const auto& [key, value] : named) {
    if (absl::string_view(key) == name) return &value;
  }
  return nullptr;
}

absl::Status CheckCall(Callable kind, const std::string& name, size_t positional,
                       const std::vector<std::string>& named) {
  const auto* found = std::find_if(std::begin(kSignatures), std::end(kSignatures), [&](const Signature& signature) {
    return signature.kind == kind && name == signature.name;
  });
  const std::string shown = absl::StrCat("the ", Noun(kind), " '", name.substr(0, 60), "'");
  if (found == std::end(kSignatures)) {
    const std::string message = absl::StrCat(shown, " is not supported");
    // A function may still turn out to be a macro.
    return kind == Callable::kFunction ? absl::NotFoundError(message) : absl::InvalidArgumentError(message);
  }
  if (positional < found->least || positional > found->most) {
    return absl::InvalidArgumentError(absl::StrCat(shown, " with ", positional, " arguments is not supported"));
  }
  const std::vector<std::string> known = absl::StrSplit(found->named, ' ');
  for (const std::string& argument : named) {
    if (known[0] == "*" || std::find(known.begin(), known.end(), argument) != known.end()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(shown, " with the argument '", argument.substr(0, 60), "' is not supported"));
  }
  return absl::OkStatus();
}

}  // namespace conclave::jinja
