#include "moe/tokenizer/jinja/builtins.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/json.h"
#include "moe/tokenizer/jinja/strings.h"
#include "moe/tokenizer/utf8.h"

namespace conclave::jinja {
namespace {

// An index that no positional argument has.
constexpr size_t kOnlyByName = static_cast<size_t>(-1);

constexpr int64_t kJsonBytesMax = int64_t{64} << 20;

absl::Status WrongInput(const std::string& name, const Value& input) {
  return absl::InvalidArgumentError(absl::StrCat("'", name, "' of ", Describe(input), " is not supported"));
}

// Python's str() of a value, as filters on strings take their input.
absl::StatusOr<Text> AsText(const Value& value) {
  Text text;
  RETURN_IF_ERROR(AppendPrinted(value, &text));
  return text;
}

absl::StatusOr<Value> Length(const Value& input) {
  switch (input.kind) {
    case Kind::kUndefined:
      return Value::Int(0);
    case Kind::kText:
      return Value::Int(Utf8Length(input.text->bytes()));
    case Kind::kList:
      return Value::Int(static_cast<int64_t>(input.list->size()));
    case Kind::kDict:
      return Value::Int(static_cast<int64_t>(input.dict->entries().size()));
    default:
      return WrongInput("length", input);
  }
}

absl::StatusOr<Value> Join(const Value& input, const Value* separator, Arena* arena) {
  ASSIGN_OR_RETURN(const List items, Iterate(input, arena));
  Text between, result;
  if (separator != nullptr) RETURN_IF_ERROR(AppendPrinted(*separator, &between));
  for (size_t i = 0; i < items.size(); ++i) {
    const size_t before = result.size();
    if (i > 0) result.Append(between);
    RETURN_IF_ERROR(AppendPrinted(items[i], &result));
    arena->Charge(static_cast<int64_t>(result.size() - before));
    if (arena->over_limit()) break;
  }
  return arena->NewText(std::move(result));
}

// "a.b" looks into a mapping within a mapping.
Value Attribute(Value value, absl::string_view path) {
  while (true) {
    const size_t dot = path.find('.');
    const bool has_members = value.kind == Kind::kDict || value.kind == Kind::kNamespace;
    const Value* found = has_members ? value.dict->Find(path.substr(0, dot)) : nullptr;
    if (found == nullptr) return Value::Undefined();
    if (dot == absl::string_view::npos) return *found;
    value = *found;
    path.remove_prefix(dot + 1);
  }
}

// selectattr and rejectattr: by the truth of an attribute, or by a test of it.
absl::StatusOr<Value> SelectByAttribute(const Value& input, const Arguments& arguments, bool keep, Arena* arena) {
  ASSIGN_OR_RETURN(const List items, Iterate(input, arena));
  const auto& given = arguments.positional;
  if (!given[0].IsText() || (given.size() > 1 && !given[1].IsText())) {
    return absl::InvalidArgumentError("selectattr needs the names of an attribute and of a test");
  }
  Arguments rest;
  if (given.size() > 2) rest.positional.push_back(given[2]);
  if (given.size() > 1) {
    RETURN_IF_ERROR(CheckCall(Callable::kTest, given[1].text->bytes(), rest.positional.size(), {}));
  }
  List result;
  for (const Value& item : items) {
    const Value attribute = Attribute(item, given[0].text->bytes());
    bool selected = Truth(attribute);
    if (given.size() > 1) {
      ASSIGN_OR_RETURN(selected, ApplyTest(given[1].text->bytes(), attribute, rest));
    }
    if (selected == keep) result.push_back(item);
  }
  return arena->NewList(std::move(result));
}

absl::StatusOr<Value> ToInt(const Value& input, const Value* otherwise) {
  if (input.kind == Kind::kInt || input.kind == Kind::kBool) return Value::Int(input.AsInt());
  if (input.kind == Kind::kFloat && std::fabs(input.real) < 9e15) return Value::Int(static_cast<int64_t>(input.real));
  int64_t value = 0;
  if (input.IsText() && absl::SimpleAtoi(input.text->bytes(), &value)) return Value::Int(value);
  return otherwise == nullptr ? Value::Int(0) : *otherwise;
}

absl::StatusOr<Value> Reverse(const Value& input, Arena* arena) {
  ASSIGN_OR_RETURN(List items, Iterate(input, arena));
  std::reverse(items.begin(), items.end());
  if (!input.IsText()) return arena->NewList(std::move(items));
  Text text;
  for (const Value& item : items) text.Append(*item.text);
  return arena->NewText(std::move(text));
}

absl::StatusOr<Value> ApplyListFilter(const std::string& name, const Value& input, const Arguments& arguments,
                                      Arena* arena) {
  if (name == "selectattr") return SelectByAttribute(input, arguments, /*keep=*/true, arena);
  if (name == "rejectattr") return SelectByAttribute(input, arguments, /*keep=*/false, arena);
  if (name == "join") return Join(input, arguments.Find(0, "d"), arena);
  if (name == "reverse") return Reverse(input, arena);
  if (name == "items") {
    if (input.kind == Kind::kUndefined) return arena->NewList({});
    return CallMethod("items", input, {}, arena);
  }
  ASSIGN_OR_RETURN(List items, Iterate(input, arena));
  if (name == "list") return arena->NewList(std::move(items));
  if (name == "first") return items.empty() ? Value::Undefined() : items.front();
  if (name == "last") return items.empty() ? Value::Undefined() : items.back();
  const Value* attribute = arguments.Find(kOnlyByName, "attribute");
  if (attribute == nullptr || !attribute->IsText()) {
    return absl::InvalidArgumentError("'map' is supported only with attribute='name'");
  }
  for (Value& item : items) item = Attribute(item, attribute->text->bytes());
  return arena->NewList(std::move(items));
}

absl::StatusOr<Value> ApplyTextFilter(const std::string& name, const Value& input, const Arguments& arguments,
                                      Arena* arena) {
  if (input.IsText() && (name == "safe" || name == "string")) return input;
  ASSIGN_OR_RETURN(const Text text, AsText(input));
  const auto result = [&]() -> absl::StatusOr<Text> {
    if (name == "upper") return Upper(text);
    if (name == "lower") return Lower(text);
    if (name == "capitalize") return Capitalize(text);
    if (name == "trim") {
      const Value* characters = arguments.Find(0, "chars");
      const bool by_space = characters == nullptr || characters->kind == Kind::kNone;
      if (!by_space && !characters->IsText()) return absl::InvalidArgumentError("trim needs a string");
      return Strip(text, by_space ? nullptr : characters->text, /*left=*/true, /*right=*/true);
    }
    return text;
  }();
  RETURN_IF_ERROR(result.status());
  return arena->NewText(*result);
}

absl::StatusOr<Value> ToJson(const Value& input, const Arguments& arguments, Arena* arena) {
  const Value* indent = arguments.Find(kOnlyByName, "indent");
  const Value* ascii = arguments.Find(kOnlyByName, "ensure_ascii");
  if (ascii != nullptr && Truth(*ascii)) return absl::InvalidArgumentError("tojson with ensure_ascii=true");
  JsonStyle style;
  if (indent != nullptr && indent->kind == Kind::kInt) {
    style.indent = static_cast<int>(std::clamp<int64_t>(indent->integer, 0, 16));
    style.item_separator = ",";
  }
  const Value* separators = arguments.Find(kOnlyByName, "separators");
  if (separators != nullptr && separators->kind != Kind::kNone) {
    const bool pair = separators->kind == Kind::kList && separators->list->size() == 2 &&
                      separators->list->front().IsText() && separators->list->back().IsText();
    if (!pair) return absl::InvalidArgumentError("tojson needs separators=(item, key), two strings");
    style.item_separator = separators->list->front().text->bytes();
    style.key_separator = separators->list->back().text->bytes();
  }
  ASSIGN_OR_RETURN(Text text, DumpJson(input, style, std::min(arena->bytes_left(), kJsonBytesMax)));
  return arena->NewText(std::move(text));
}

}  // namespace

absl::StatusOr<Value> ApplyFilter(const std::string& name, const Value& input, const Arguments& arguments,
                                  Arena* arena) {
  if (name == "length" || name == "count") return Length(input);
  if (name == "tojson") return ToJson(input, arguments, arena);
  if (name == "int") return ToInt(input, arguments.Find(0, "default"));
  if (name == "default" || name == "d") {
    const Value* boolean = arguments.Find(1, "boolean");
    const bool replace = input.kind == Kind::kUndefined || (boolean != nullptr && Truth(*boolean) && !Truth(input));
    const Value* otherwise = arguments.Find(0, "default_value");
    if (!replace) return input;
    return otherwise == nullptr ? arena->NewText("", /*from_template=*/true) : *otherwise;
  }
  if (name == "abs") {
    if (!input.IsNumber()) return WrongInput(name, input);
    return input.kind == Kind::kFloat ? Value::Float(std::fabs(input.real)) : Value::Int(std::llabs(input.AsInt()));
  }
  if (name == "replace") {
    ASSIGN_OR_RETURN(const Text text, AsText(input));
    return CallMethod(name, arena->NewText(text), arguments, arena);
  }
  for (const char* of_text : {"upper", "lower", "capitalize", "trim", "safe", "string"}) {
    if (name == of_text) return ApplyTextFilter(name, input, arguments, arena);
  }
  return ApplyListFilter(name, input, arguments, arena);
}

absl::StatusOr<bool> ApplyTest(const std::string& name, const Value& input, const Arguments& arguments) {
  const Kind kind = input.kind;
  if (name == "defined") return kind != Kind::kUndefined;
  if (name == "undefined") return kind == Kind::kUndefined;
  if (name == "none") return kind == Kind::kNone;
  if (name == "string") return kind == Kind::kText;
  if (name == "mapping") return kind == Kind::kDict;
  if (name == "boolean") return kind == Kind::kBool;
  if (name == "true") return kind == Kind::kBool && input.boolean;
  if (name == "false") return kind == Kind::kBool && !input.boolean;
  if (name == "integer") return kind == Kind::kInt;
  if (name == "float") return kind == Kind::kFloat;
  if (name == "number") return input.IsNumber();
  if (name == "iterable" || name == "sequence") {
    return kind == Kind::kText || kind == Kind::kList || kind == Kind::kDict || kind == Kind::kUndefined;
  }
  if (name == "eq" || name == "equalto") return Equal(input, arguments.positional[0]);
  if (name == "ne") return !Equal(input, arguments.positional[0]);
  if (name == "in") return Contains(arguments.positional[0], input);
  if (kind != Kind::kInt && kind != Kind::kBool) return WrongInput(name, input);
  if (name == "odd") return input.AsInt() % 2 != 0;
  if (name == "even") return input.AsInt() % 2 == 0;
  const Value& divisor = arguments.positional[0];
  if (divisor.kind != Kind::kInt || divisor.integer == 0) {
    return absl::InvalidArgumentError("divisibleby needs an integer other than 0");
  }
  return divisor.integer == -1 || input.AsInt() % divisor.integer == 0;
}

absl::StatusOr<bool> Contains(const Value& container, const Value& item) {
  switch (container.kind) {
    case Kind::kUndefined:
      return false;
    case Kind::kText:
      if (!item.IsText()) break;
      return FindText(container.text->bytes(), item.text->bytes(), 0) != absl::string_view::npos;
    case Kind::kList:
      return std::any_of(container.list->begin(), container.list->end(),
                         [&](const Value& member) { return Equal(member, item); });
    case Kind::kDict:
      return item.IsText() && container.dict->Find(item.text->bytes()) != nullptr;
    default:
      break;
  }
  return absl::InvalidArgumentError(absl::StrCat("cannot look for ", Describe(item), " in ", Describe(container)));
}

absl::StatusOr<List> Iterate(const Value& value, Arena* arena) {
  List items;
  switch (value.kind) {
    case Kind::kUndefined:
      return items;
    case Kind::kList:
      arena->Charge(static_cast<int64_t>(value.list->size() * sizeof(Value)));
      return *value.list;
    case Kind::kDict:
      for (const auto& [key, member] : value.dict->entries()) {
        items.push_back(arena->NewText(key, value.dict->keys_from_template()));
      }
      return items;
    case Kind::kText: {
      const std::vector<size_t> offsets = CharacterOffsets(*value.text);
      for (size_t i = 0; i + 1 < offsets.size() && !arena->over_limit(); ++i) {
        items.push_back(arena->NewText(value.text->Sub(offsets[i], offsets[i + 1])));
      }
      return items;
    }
    default:
      return absl::InvalidArgumentError(absl::StrCat("cannot iterate over ", Describe(value)));
  }
}

}  // namespace conclave::jinja
