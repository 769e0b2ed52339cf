// The values that a chat template computes with, and the memory that holds them.
#ifndef CONCLAVE_MOE_TOKENIZER_JINJA_VALUE_H_
#define CONCLAVE_MOE_TOKENIZER_JINJA_VALUE_H_

#include <cstdint>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "moe/tokenizer/jinja/text.h"

namespace conclave::jinja {

struct Statement;
class Scope;
class Dict;
struct Value;
using List = std::vector<Value>;

enum class Kind { kUndefined, kNone, kBool, kInt, kFloat, kText, kList, kDict, kNamespace, kMacro };

// A macro and the scope in which it was defined.
struct Macro {
  const Statement* definition;
  Scope* scope;
};

// Small and copied freely; what it points to lives in the Arena of one rendering.
struct Value {
  Kind kind = Kind::kUndefined;
  union {
    const std::string* name = nullptr;  // kUndefined: what was looked for, or null
    bool boolean;
    int64_t integer;
    double real;
    const Text* text;
    List* list;
    Dict* dict;  // kDict, kNamespace
    const Macro* macro;
  };

  static Value Undefined(const std::string* name = nullptr);
  static Value None();
  static Value Bool(bool value);
  static Value Int(int64_t value);
  static Value Float(double value);

  bool IsText() const { return kind == Kind::kText; }
  bool IsNumber() const { return kind == Kind::kInt || kind == Kind::kFloat || kind == Kind::kBool; }
  // Integers and booleans, which Python counts among them. REQUIRES: kind is one of them
  int64_t AsInt() const { return kind == Kind::kBool ? boolean : integer; }
  double AsFloat() const { return kind == Kind::kFloat ? real : static_cast<double>(AsInt()); }
};

// String keys in the order of their first assignment. Lookups are linear: messages have a handful of keys.
class Dict {
 public:
  const Value* Find(absl::string_view key) const;
  void Set(absl::string_view key, Value value);
  // A member of a mapping that somebody else wrote: from now on its keys are a user's words. REQUIRES: a new key
  void AddForeign(std::string key, Value value);
  bool keys_from_template() const { return keys_from_template_; }
  const std::vector<std::pair<std::string, Value>>& entries() const { return entries_; }

 private:
  std::vector<std::pair<std::string, Value>> entries_;
  bool keys_from_template_ = true;
};

// The variables of a block; unknown ones are looked up in the parent.
class Scope {
 public:
  explicit Scope(const Scope* parent) : parent_(parent) {}
  const Value* Find(absl::string_view name) const;
  void Set(absl::string_view name, Value value) { variables_.Set(name, value); }

 private:
  const Scope* parent_;
  Dict variables_;
};

// Owns every text, list, mapping and scope of one rendering, and limits their bytes: a small template can ask for a
// lot of memory. Once it is over its limit it stays so; the interpreter looks at over_limit() at each step.
class Arena {
 public:
  explicit Arena(int64_t bytes_max) : bytes_left_(bytes_max) {}
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;

  Value NewText(Text text);
  Value NewText(absl::string_view bytes, bool from_template) { return NewText(Text(bytes, from_template)); }
  Value NewList(List items);
  Value NewDict(Kind kind = Kind::kDict);
  Value NewMacro(Macro macro);
  Scope* NewScope(const Scope* parent);
  void Charge(int64_t bytes) { bytes_left_ -= bytes; }
  bool over_limit() const { return bytes_left_ < 0; }
  int64_t bytes_left() const { return bytes_left_; }

 private:
  int64_t bytes_left_;
  std::deque<Text> texts_;
  std::deque<List> lists_;
  std::deque<Dict> dicts_;
  std::deque<Macro> macros_;
  std::deque<Scope> scopes_;
};

// "a string", "a mapping": for messages; an undefined value by its name.
std::string Describe(const Value& value);
// Python's bool().
bool Truth(const Value& value);
// Python's ==. Lists nested deeper than 64 levels or of more than a million values count as unequal.
bool Equal(const Value& a, const Value& b);
// -1, 0, 1 for numbers and for texts. INVALID_ARGUMENT: values without an order.
absl::Status Compare(const Value& a, const Value& b, int* order);
// Appends Python's str(). INVALID_ARGUMENT: lists, mappings and macros, whose Python spelling no prompt wants.
absl::Status AppendPrinted(const Value& value, Text* out);

}  // namespace conclave::jinja

#endif  // CONCLAVE_MOE_TOKENIZER_JINJA_VALUE_H_
