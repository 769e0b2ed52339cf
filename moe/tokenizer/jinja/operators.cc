// Items, slices and arithmetic, with Python's meaning.
#include <algorithm>
#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/interpreter.h"
#include "moe/tokenizer/jinja/strings.h"
#include "moe/tokenizer/utf8.h"

namespace conclave::jinja {
namespace {

absl::Status WrongOperands(const std::string& operation, const Value& left, const Value& right) {
  return absl::InvalidArgumentError(
      absl::StrCat("cannot compute ", Describe(left), " ", operation, " ", Describe(right)));
}

// Python rounds the quotient down and gives the remainder the divisor's sign.
int64_t FloorDivide(int64_t a, int64_t b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }

absl::StatusOr<Value> IntegerArithmetic(const std::string& operation, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (operation == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (operation == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (operation == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else {
    if (b == 0) return absl::InvalidArgumentError("division by zero");
    if (operation == "/") return Value::Float(static_cast<double>(a) / static_cast<double>(b));
    overflow = b == -1 && a == std::numeric_limits<int64_t>::min();
    if (!overflow) result = operation == "//" ? FloorDivide(a, b) : a - FloorDivide(a, b) * b;
  }
  if (overflow) return absl::InvalidArgumentError("an integer beyond 64 bits");
  return Value::Int(result);
}

absl::StatusOr<Value> FloatArithmetic(const std::string& operation, double a, double b) {
  if (operation == "+") return Value::Float(a + b);
  if (operation == "-") return Value::Float(a - b);
  if (operation == "*") return Value::Float(a * b);
  if (b == 0) return absl::InvalidArgumentError("division by zero");
  if (operation == "/") return Value::Float(a / b);
  if (operation == "//") return Value::Float(std::floor(a / b));
  return Value::Float(a - std::floor(a / b) * b);
}

// A bound of a slice as a position within [low, high].
absl::StatusOr<int64_t> Bound(const Value& bound, int64_t absent, int64_t size, int64_t low, int64_t high) {
  if (bound.kind == Kind::kUndefined || bound.kind == Kind::kNone) return absent;
  if (bound.kind != Kind::kInt && bound.kind != Kind::kBool) {
    return absl::InvalidArgumentError(absl::StrCat("a slice bounded by ", Describe(bound)));
  }
  int64_t at = bound.AsInt();
  if (at < 0) at = at < -size ? low : at + size;
  return std::clamp(at, low, high);
}

}  // namespace

absl::StatusOr<Value> GetItem(const Value& object, const Value& key, Arena* arena) {
  const std::string* name = key.IsText() ? &key.text->bytes() : nullptr;
  switch (object.kind) {
    case Kind::kUndefined:
      return absl::InvalidArgumentError(absl::StrCat("cannot look into ", Describe(object)));
    case Kind::kDict:
    case Kind::kNamespace: {
      const Value* found = name == nullptr ? nullptr : object.dict->Find(*name);
      return found == nullptr ? Value::Undefined(name) : *found;
    }
    case Kind::kList:
    case Kind::kText: {
      if (key.kind != Kind::kInt && key.kind != Kind::kBool) return Value::Undefined(name);
      const int64_t size =
          object.IsText() ? Utf8Length(object.text->bytes()) : static_cast<int64_t>(object.list->size());
      const int64_t index = key.AsInt() < 0 ? key.AsInt() + size : key.AsInt();
      if (index < 0 || index >= size) return Value::Undefined();
      if (object.kind == Kind::kList) return (*object.list)[index];
      const size_t begin = CharacterOffset(*object.text, index);
      const size_t bytes = NextUtf8(absl::string_view(object.text->bytes()).substr(begin)).bytes;
      return arena->NewText(object.text->Sub(begin, begin + bytes));
    }
    default:
      return Value::Undefined(name);
  }
}

absl::StatusOr<Value> Arithmetic(const std::string& operation, const Value& left, const Value& right, Arena* arena) {
  if (left.IsNumber() && right.IsNumber()) {
    if (left.kind == Kind::kFloat || right.kind == Kind::kFloat) {
      return FloatArithmetic(operation, left.AsFloat(), right.AsFloat());
    }
    return IntegerArithmetic(operation, left.AsInt(), right.AsInt());
  }
  if (operation == "+" && left.IsText() && right.IsText()) {
    Text text = *left.text;
    text.Append(*right.text);
    return arena->NewText(std::move(text));
  }
  if (operation == "+" && left.kind == Kind::kList && right.kind == Kind::kList) {
    List items = *left.list;
    items.insert(items.end(), right.list->begin(), right.list->end());
    return arena->NewList(std::move(items));
  }
  if (operation == "*" && left.IsText() && right.kind == Kind::kInt) {
    // Asked before any of it is made: millions of appended bytes take seconds.
    const int64_t size = static_cast<int64_t>(left.text->size());
    if (size > 0 && right.integer > arena->bytes_left() / size) {
      return absl::InvalidArgumentError("a repeated string that is too long");
    }
    Text text;
    for (int64_t i = 0; i < right.integer && size > 0; ++i) text.Append(*left.text);
    return arena->NewText(std::move(text));
  }
  return WrongOperands(operation, left, right);
}

absl::StatusOr<Value> Slice(const Value& object, const Value& start, const Value& stop, const Value& step,
                            Arena* arena) {
  if (object.kind != Kind::kList && !object.IsText()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot take a slice of ", Describe(object)));
  }
  const int64_t size = object.IsText() ? Utf8Length(object.text->bytes()) : static_cast<int64_t>(object.list->size());
  int64_t by = 1;
  if (step.kind == Kind::kInt) {
    by = std::clamp(step.integer, -size - 1, size + 1);  // one beyond the size takes one item, as the size itself does
  } else if (step.kind != Kind::kUndefined && step.kind != Kind::kNone) {
    return absl::InvalidArgumentError(absl::StrCat("a slice with a step of ", Describe(step)));
  }
  if (by == 0) return absl::InvalidArgumentError("a slice with a step of 0");
  const bool forward = by > 0;
  ASSIGN_OR_RETURN(const int64_t from,
                   forward ? Bound(start, 0, size, 0, size) : Bound(start, size - 1, size, -1, size - 1));
  ASSIGN_OR_RETURN(const int64_t to, forward ? Bound(stop, size, size, 0, size) : Bound(stop, -1, size, -1, size - 1));
  if (object.IsText() && by == 1) {
    if (from >= to) return arena->NewText(Text());
    return arena->NewText(object.text->Sub(CharacterOffset(*object.text, from), CharacterOffset(*object.text, to)));
  }
  const std::vector<size_t> offsets = object.IsText() ? CharacterOffsets(*object.text) : std::vector<size_t>();
  Text text;
  List items;
  for (int64_t i = from; forward ? i < to : i > to; i += by) {
    if (object.IsText()) {
      text.Append(*object.text, offsets[i], offsets[i + 1]);
    } else {
      items.push_back((*object.list)[i]);
    }
  }
  return object.IsText() ? arena->NewText(std::move(text)) : arena->NewList(std::move(items));
}

}  // namespace conclave::jinja
