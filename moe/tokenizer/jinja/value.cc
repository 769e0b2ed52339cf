#include "moe/tokenizer/jinja/value.h"

#include <charconv>
#include <cmath>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace conclave::jinja {
namespace {

// What an object costs besides its payload: its place in a deque and in the allocator.
constexpr int64_t kObjectBytes = 96;

// Python's repr: the shortest digits that give the number back, as a decimal within [1e-4, 1e16).
std::string PrintFloat(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  const double size = std::fabs(value);
  const bool decimal = size == 0 || (size >= 1e-4 && size < 1e16);
  char buffer[64];
  const auto format = decimal ? std::chars_format::fixed : std::chars_format::scientific;
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, format);
  std::string text(buffer, end.ptr);
  if (decimal && !absl::StrContains(text, ".")) text += ".0";
  return text;
}

// A list may have been appended to itself, and one that is in a list twice doubles the work with each level.
struct EqualLimits {
  int depth = 64;
  int64_t* values_left;
};

bool EqualWithin(const Value& a, const Value& b, EqualLimits limits);

bool ListsEqual(const List& a, const List& b, EqualLimits limits) {
  if (a.size() != b.size() || limits.depth-- == 0) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (!EqualWithin(a[i], b[i], limits)) return false;
  }
  return true;
}

bool DictsEqual(const Dict& a, const Dict& b, EqualLimits limits) {
  if (a.entries().size() != b.entries().size() || limits.depth-- == 0) return false;
  for (const auto& [key, value] : a.entries()) {
    const Value* other = b.Find(key);
    if (other == nullptr || !EqualWithin(value, *other, limits)) return false;
  }
  return true;
}

bool EqualWithin(const Value& a, const Value& b, EqualLimits limits) {
  if (--*limits.values_left < 0) return false;
  if (a.IsNumber() && b.IsNumber()) {
    return a.kind == Kind::kFloat || b.kind == Kind::kFloat ? a.AsFloat() == b.AsFloat() : a.AsInt() == b.AsInt();
  }
  if (a.kind != b.kind) return false;
  switch (a.kind) {
    case Kind::kText:
      return a.text->bytes() == b.text->bytes();
    case Kind::kList:
      return a.list == b.list || ListsEqual(*a.list, *b.list, limits);
    case Kind::kDict:
      return a.dict == b.dict || DictsEqual(*a.dict, *b.dict, limits);
    case Kind::kNamespace:
      return a.dict == b.dict;
    case Kind::kMacro:
      return a.macro == b.macro;
    default:
      return true;
  }
}

}  // namespace

Value Value::Undefined(const std::string* name) {
  Value result;
  result.name = name;
  return result;
}

Value Value::None() {
  Value result;
  result.kind = Kind::kNone;
  return result;
}

Value Value::Bool(bool value) {
  Value result;
  result.kind = Kind::kBool;
  result.boolean = value;
  return result;
}

Value Value::Int(int64_t value) {
  Value result;
  result.kind = Kind::kInt;
  result.integer = value;
  return result;
}

Value Value::Float(double value) {
  Value result;
  result.kind = Kind::kFloat;
  result.real = value;
  return result;
}

const Value* Dict::Find(absl::string_view key) const {
  for (const auto& entry : entries_) {
    if (absl::string_view(entry.first) == key) return &entry.second;
  }
  return nullptr;
}

void Dict::Set(absl::string_view key, Value value) {
  for (auto& entry : entries_) {
    if (absl::string_view(entry.first) == key) {
      entry.second = value;
      return;
    }
  }
  entries_.emplace_back(std::string(key), value);
}

void Dict::AddForeign(std::string key, Value value) {
  keys_from_template_ = false;
  entries_.emplace_back(std::move(key), value);
}

const Value* Scope::Find(absl::string_view name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent_) {
    const Value* value = scope->variables_.Find(name);
    if (value != nullptr) return value;
  }
  return nullptr;
}

Value Arena::NewText(Text text) {
  Charge(kObjectBytes + static_cast<int64_t>(text.size() + text.runs().size() * sizeof(Text::Run)));
  texts_.push_back(std::move(text));
  Value result;
  result.kind = Kind::kText;
  result.text = &texts_.back();
  return result;
}

Value Arena::NewList(List items) {
  Charge(kObjectBytes + static_cast<int64_t>(items.size() * sizeof(Value)));
  lists_.push_back(std::move(items));
  Value result;
  result.kind = Kind::kList;
  result.list = &lists_.back();
  return result;
}

Value Arena::NewDict(Kind kind) {
  Charge(kObjectBytes);
  Value result;
  result.kind = kind;
  result.dict = &dicts_.emplace_back();
  return result;
}

Value Arena::NewMacro(Macro macro) {
  Charge(kObjectBytes);
  macros_.push_back(macro);
  Value result;
  result.kind = Kind::kMacro;
  result.macro = &macros_.back();
  return result;
}

Scope* Arena::NewScope(const Scope* parent) {
  Charge(kObjectBytes);
  return &scopes_.emplace_back(parent);
}

std::string Describe(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
      return value.name == nullptr ? "an undefined value" : absl::StrCat("'", *value.name, "', which is undefined");
    case Kind::kNone:
      return "none";
    case Kind::kBool:
      return "a boolean";
    case Kind::kInt:
    case Kind::kFloat:
      return "a number";
    case Kind::kText:
      return "a string";
    case Kind::kList:
      return "a list";
    case Kind::kDict:
      return "a mapping";
    case Kind::kNamespace:
      return "a namespace";
    case Kind::kMacro:
      return "a macro";
  }
  return "a value";
}

bool Truth(const Value& value) {
  switch (value.kind) {
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
      return value.boolean;
    case Kind::kInt:
      return value.integer != 0;
    case Kind::kFloat:
      return value.real != 0;
    case Kind::kText:
      return value.text->size() > 0;
    case Kind::kList:
      return !value.list->empty();
    case Kind::kDict:
      return !value.dict->entries().empty();
    default:
      return true;
  }
}

bool Equal(const Value& a, const Value& b) {
  int64_t values_left = 1 << 20;
  EqualLimits limits;
  limits.values_left = &values_left;
  return EqualWithin(a, b, limits);
}

absl::Status Compare(const Value& a, const Value& b, int* order) {
  if (a.IsNumber() && b.IsNumber()) {
    if (a.kind != Kind::kFloat && b.kind != Kind::kFloat) {
      *order = a.AsInt() < b.AsInt() ? -1 : a.AsInt() > b.AsInt();
    } else {
      *order = a.AsFloat() < b.AsFloat() ? -1 : a.AsFloat() > b.AsFloat();
    }
    return absl::OkStatus();
  }
  if (a.IsText() && b.IsText()) {  // The order of UTF-8 bytes is that of code points.
    const int result = a.text->bytes().compare(b.text->bytes());
    *order = result < 0 ? -1 : result > 0;
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("cannot order ", Describe(a), " and ", Describe(b)));
}

absl::Status AppendPrinted(const Value& value, Text* out) {
  switch (value.kind) {
    case Kind::kUndefined:
      return absl::OkStatus();
    case Kind::kNone:
      out->Append("None", /*from_template=*/true);
      return absl::OkStatus();
    case Kind::kBool:
      out->Append(value.boolean ? "True" : "False", /*from_template=*/true);
      return absl::OkStatus();
    case Kind::kInt:
      out->Append(absl::StrCat(value.integer), /*from_template=*/true);
      return absl::OkStatus();
    case Kind::kFloat:
      out->Append(PrintFloat(value.real), /*from_template=*/true);
      return absl::OkStatus();
    case Kind::kText:
      out->Append(*value.text);
      return absl::OkStatus();
    default:
      return absl::InvalidArgumentError(absl::StrCat("cannot print ", Describe(value), "; tojson can"));
  }
}

}  // namespace conclave::jinja
