// Methods of strings, lists and mappings, and functions.
#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/builtins.h"
#include "moe/tokenizer/jinja/strings.h"
#include "moe/tokenizer/utf8.h"

namespace conclave::jinja {
namespace {

constexpr int64_t kRangeMax = 1 << 20;

absl::Status NoMethod(const std::string& name, const Value& object) {
  return absl::InvalidArgumentError(absl::StrCat("there is no method '", name, "' of ", Describe(object)));
}

absl::StatusOr<Value> SplitMethod(const std::string& name, const Text& text, const Arguments& arguments, Arena* arena) {
  const Value* separator = arguments.Find(0, "sep");
  const Value* limit = arguments.Find(1, "maxsplit");
  const bool by_space = separator == nullptr || separator->kind == Kind::kNone;
  if ((!by_space && !separator->IsText()) || (limit != nullptr && limit->kind != Kind::kInt)) {
    return absl::InvalidArgumentError(absl::StrCat(name, " needs a string and an integer"));
  }
  ASSIGN_OR_RETURN(List items, Split(text, by_space ? nullptr : separator->text, limit == nullptr ? -1 : limit->integer,
                                     name == "rsplit", arena));
  return arena->NewList(std::move(items));
}

// Methods whose first argument, where there is one, must be a string.
absl::StatusOr<Value> TextMethod(const std::string& name, const Text& text, const Arguments& arguments, Arena* arena) {
  if (name == "split" || name == "rsplit") return SplitMethod(name, text, arguments, arena);
  if (name == "join") return ApplyFilter("join", arguments.positional[0], {{arena->NewText(text)}, {}}, arena);
  if (name == "upper" || name == "lower" || name == "capitalize") {
    return ApplyFilter(name, arena->NewText(text), {}, arena);
  }
  const Value* first = arguments.Find(0, "");
  const bool strips = name == "strip" || name == "lstrip" || name == "rstrip";
  if (strips && first != nullptr && first->kind == Kind::kNone) first = nullptr;
  if (first != nullptr && !first->IsText()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " of ", Describe(*first), " is not supported"));
  }
  const Text* argument = first == nullptr ? nullptr : first->text;
  if (strips) return arena->NewText(Strip(text, argument, name != "rstrip", name != "lstrip"));
  if (argument == nullptr) return NoMethod(name, arena->NewText(text));
  const std::string& bytes = text.bytes();
  const std::string& part = argument->bytes();
  if (name == "startswith") return Value::Bool(absl::StartsWith(bytes, part));
  if (name == "endswith") return Value::Bool(absl::EndsWith(bytes, part));
  if (name == "removeprefix" || name == "removesuffix") {
    const bool prefix = name == "removeprefix";
    const bool there = prefix ? absl::StartsWith(bytes, part) : absl::EndsWith(bytes, part);
    const size_t cut = there ? part.size() : 0;
    return arena->NewText(prefix ? text.Sub(cut, text.size()) : text.Sub(0, text.size() - cut));
  }
  if (name == "find") {
    const size_t found = FindText(bytes, part, 0);
    return Value::Int(found == absl::string_view::npos ? -1 : Utf8Length(absl::string_view(bytes).substr(0, found)));
  }
  if (name == "count") {
    if (part.empty()) return Value::Int(Utf8Length(bytes) + 1);
    int64_t count = 0;
    for (size_t at = 0; (at = FindText(bytes, part, at)) != absl::string_view::npos; at += part.size()) ++count;
    return Value::Int(count);
  }
  if (name == "replace") {
    const auto& given = arguments.positional;
    if (!given[1].IsText() || (given.size() > 2 && given[2].kind != Kind::kInt)) {
      return absl::InvalidArgumentError("replace needs two strings");
    }
    return arena->NewText(Replace(text, *argument, *given[1].text, given.size() > 2 ? given[2].integer : -1, arena));
  }
  return NoMethod(name, arena->NewText(text));
}

absl::StatusOr<Value> DictMethod(const std::string& name, const Value& object, const Arguments& arguments,
                                 Arena* arena) {
  if (name == "get") {
    const Value& key = arguments.positional[0];
    const Value* found = key.IsText() ? object.dict->Find(key.text->bytes()) : nullptr;
    if (found != nullptr) return *found;
    return arguments.positional.size() > 1 ? arguments.positional[1] : Value::None();
  }
  if (name != "items" && name != "keys" && name != "values") return NoMethod(name, object);
  List items;
  for (const auto& [key, value] : object.dict->entries()) {
    const Value key_text = arena->NewText(key, object.dict->keys_from_template());
    items.push_back(name == "items" ? arena->NewList({key_text, value}) : name == "keys" ? key_text : value);
  }
  return arena->NewList(std::move(items));
}

absl::StatusOr<Value> ListMethod(const std::string& name, const Value& object, const Arguments& arguments,
                                 Arena* arena) {
  List& list = *object.list;
  if (name == "append") {
    arena->Charge(sizeof(Value));
    list.push_back(arguments.positional[0]);
    return Value::None();
  }
  if (name == "count") {
    const auto same = [&](const Value& item) { return Equal(item, arguments.positional[0]); };
    return Value::Int(std::count_if(list.begin(), list.end(), same));
  }
  if (name != "pop") return NoMethod(name, object);
  const int64_t size = static_cast<int64_t>(list.size());
  int64_t index = size - 1;
  if (!arguments.positional.empty()) {
    if (arguments.positional[0].kind != Kind::kInt) return absl::InvalidArgumentError("pop needs an integer");
    index = arguments.positional[0].integer;
    if (index < 0) index += size;
  }
  if (index < 0 || index >= size) return absl::InvalidArgumentError("pop from a list beyond its end");
  const Value value = list[index];
  list.erase(list.begin() + index);
  return value;
}

absl::StatusOr<Value> Range(const Arguments& arguments, Arena* arena) {
  int64_t bounds[3] = {0, 0, 1};  // start, stop, step
  const auto& given = arguments.positional;
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i].kind != Kind::kInt) return absl::InvalidArgumentError("range needs integers");
    bounds[given.size() == 1 ? 1 : i] = given[i].integer;
  }
  const int64_t step = bounds[2];
  if (step == 0) return absl::InvalidArgumentError("range with a step of 0");
  List items;
  for (int64_t i = bounds[0]; step > 0 ? i < bounds[1] : i > bounds[1];) {
    if (static_cast<int64_t>(items.size()) == kRangeMax) {
      return absl::InvalidArgumentError(absl::StrCat("range of more than ", kRangeMax, " numbers"));
    }
    items.push_back(Value::Int(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return arena->NewList(std::move(items));
}

}  // namespace

absl::StatusOr<Value> CallMethod(const std::string& name, const Value& object, const Arguments& arguments,
                                 Arena* arena) {
  switch (object.kind) {
    case Kind::kText:
      return TextMethod(name, *object.text, arguments, arena);
    case Kind::kDict:
      return DictMethod(name, object, arguments, arena);
    case Kind::kList:
      return ListMethod(name, object, arguments, arena);
    default:
      return NoMethod(name, object);
  }
}

absl::StatusOr<Value> CallFunction(const std::string& name, const Arguments& arguments, Arena* arena) {
  if (name == "range") return Range(arguments, arena);
  if (name == "raise_exception") {
    Text message;
    RETURN_IF_ERROR(AppendPrinted(arguments.positional[0], &message));
    return absl::InvalidArgumentError(absl::StrCat("the template refuses the conversation: ", message.bytes()));
  }
  const Value result = arena->NewDict(name == "namespace" ? Kind::kNamespace : Kind::kDict);
  for (const auto& [key, value] : arguments.named) result.dict->Set(key, value);
  return result;
}

}  // namespace conclave::jinja
