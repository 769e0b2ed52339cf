// Expressions of a template.
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/interpreter.h"
#include "moe/tokenizer/jinja/lexer.h"

namespace conclave::jinja {
namespace {

constexpr int64_t kBytesPerStep = 64;
constexpr int64_t kItemsPerStep = 8;

}  // namespace

// Adds the line to errors that do not name one yet, and counts steps and nesting.
absl::StatusOr<Value> Interpreter::Evaluate(const Expression& expression, Scope* scope) {
  ++depth_;
  RETURN_IF_ERROR(Step(expression.line));
  absl::StatusOr<Value> value = EvaluateNode(expression, scope);
  --depth_;
  // Whoever takes the value may look at all of it.
  if (value.ok() && value->IsText()) steps_ += static_cast<int64_t>(value->text->size()) / kBytesPerStep;
  if (value.ok() && value->kind == Kind::kList) steps_ += static_cast<int64_t>(value->list->size()) / kItemsPerStep;
  if (value.ok() || absl::StartsWith(value.status().message(), "line ")) return value;
  return LineError(expression.line, value.status().message());
}

absl::StatusOr<Value> Interpreter::EvaluateNode(const Expression& expression, Scope* scope) {
  switch (expression.kind) {
    case ExpressionKind::kLiteral:
      return expression.value;
    case ExpressionKind::kName: {
      const Value* found = scope->Find(expression.name);
      return found == nullptr ? Value::Undefined(&expression.name) : *found;
    }
    case ExpressionKind::kList:
    case ExpressionKind::kDict:
      return EvaluateCollection(expression, scope);
    case ExpressionKind::kAttribute: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expression.operands[0], scope));
      if (object.kind == Kind::kUndefined) {
        return absl::InvalidArgumentError(absl::StrCat("cannot read '", expression.name, "' of ", Describe(object)));
      }
      const bool has_members = object.kind == Kind::kDict || object.kind == Kind::kNamespace;
      const Value* found = has_members ? object.dict->Find(expression.name) : nullptr;
      return found == nullptr ? Value::Undefined(&expression.name) : *found;
    }
    case ExpressionKind::kItem: {
      ASSIGN_OR_RETURN(const Value object, Evaluate(*expression.operands[0], scope));
      ASSIGN_OR_RETURN(const Value key, Evaluate(*expression.operands[1], scope));
      return GetItem(object, key, arena_);
    }
    case ExpressionKind::kSlice:
      return EvaluateSlice(expression, scope);
    case ExpressionKind::kCall:
    case ExpressionKind::kMethod:
    case ExpressionKind::kFilter:
    case ExpressionKind::kTest:
      return EvaluateCall(expression, scope);
    case ExpressionKind::kCompare:
      return EvaluateCompare(expression, scope);
    default:
      return EvaluateOperator(expression, scope);
  }
}

absl::StatusOr<Value> Interpreter::EvaluateCollection(const Expression& expression, Scope* scope) {
  if (expression.kind == ExpressionKind::kList) {
    List items;
    for (const ExpressionPtr& operand : expression.operands) {
      ASSIGN_OR_RETURN(const Value item, Evaluate(*operand, scope));
      items.push_back(item);
    }
    return arena_->NewList(std::move(items));
  }
  const Value dict = arena_->NewDict();
  for (size_t i = 0; i < expression.operands.size(); i += 2) {
    ASSIGN_OR_RETURN(const Value key, Evaluate(*expression.operands[i], scope));
    ASSIGN_OR_RETURN(const Value value, Evaluate(*expression.operands[i + 1], scope));
    if (!key.IsText()) return absl::InvalidArgumentError(absl::StrCat("a mapping's key that is ", Describe(key)));
    arena_->Charge(static_cast<int64_t>(key.text->size() + sizeof(std::string) + sizeof(Value)));
    dict.dict->Set(key.text->bytes(), value);
  }
  return dict;
}

absl::StatusOr<Value> Interpreter::EvaluateOperator(const Expression& expression, Scope* scope) {
  if (expression.kind == ExpressionKind::kConditional) {
    ASSIGN_OR_RETURN(const Value condition, Evaluate(*expression.operands[1], scope));
    const ExpressionPtr& chosen = expression.operands[Truth(condition) ? 0 : 2];
    return chosen == nullptr ? Value::Undefined() : Evaluate(*chosen, scope);
  }
  if (expression.kind == ExpressionKind::kConcat) {
    Text text;
    for (const ExpressionPtr& operand : expression.operands) {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*operand, scope));
      RETURN_IF_ERROR(AppendPrinted(value, &text));
    }
    return arena_->NewText(std::move(text));
  }
  ASSIGN_OR_RETURN(const Value left, Evaluate(*expression.operands[0], scope));
  switch (expression.kind) {
    case ExpressionKind::kNot:
      return Value::Bool(!Truth(left));
    case ExpressionKind::kNegative:
      return Arithmetic("-", Value::Int(0), left, arena_);
    case ExpressionKind::kPositive:
      return Arithmetic("+", Value::Int(0), left, arena_);
    case ExpressionKind::kAnd:
      return Truth(left) ? Evaluate(*expression.operands[1], scope) : left;
    case ExpressionKind::kOr:
      return Truth(left) ? left : Evaluate(*expression.operands[1], scope);
    default:
      break;
  }
  ASSIGN_OR_RETURN(const Value right, Evaluate(*expression.operands[1], scope));
  return Arithmetic(expression.name, left, right, arena_);
}

absl::StatusOr<Value> Interpreter::EvaluateCompare(const Expression& expression, Scope* scope) {
  ASSIGN_OR_RETURN(Value left, Evaluate(*expression.operands[0], scope));
  for (size_t i = 0; i < expression.operators.size(); ++i) {
    ASSIGN_OR_RETURN(const Value right, Evaluate(*expression.operands[i + 1], scope));
    const std::string& name = expression.operators[i];
    bool holds = false;
    if (name == "==" || name == "!=") {
      holds = Equal(left, right) == (name == "==");
    } else if (name == "in" || name == "not in") {
      ASSIGN_OR_RETURN(const bool contained, Contains(right, left));
      holds = contained == (name == "in");
    } else {
      int order = 0;
      RETURN_IF_ERROR(Compare(left, right, &order));
      holds = name == "<" ? order < 0 : name == "<=" ? order <= 0 : name == ">" ? order > 0 : order >= 0;
    }
    if (!holds) return Value::Bool(false);
    left = right;
  }
  return Value::Bool(true);
}

absl::StatusOr<Value> Interpreter::EvaluateSlice(const Expression& expression, Scope* scope) {
  Value parts[4];  // object, start, stop, step; absent ones stay undefined
  for (size_t i = 0; i < 4; ++i) {
    if (expression.operands[i] == nullptr) continue;
    ASSIGN_OR_RETURN(parts[i], Evaluate(*expression.operands[i], scope));
  }
  return Slice(parts[0], parts[1], parts[2], parts[3], arena_);
}

absl::StatusOr<Arguments> Interpreter::EvaluateArguments(const Expression& call, size_t first, Scope* scope) {
  Arguments arguments;
  for (size_t i = first; i < call.operands.size(); ++i) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*call.operands[i], scope));
    arguments.positional.push_back(value);
  }
  for (const auto& [name, operand] : call.named) {
    ASSIGN_OR_RETURN(const Value value, Evaluate(*operand, scope));
    arguments.named.emplace_back(name, value);
  }
  return arguments;
}

absl::StatusOr<Value> Interpreter::EvaluateCall(const Expression& expression, Scope* scope) {
  if (expression.kind == ExpressionKind::kCall) {
    ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression, 0, scope));
    const Value* variable = scope->Find(expression.name);
    if (variable != nullptr && variable->kind == Kind::kMacro) return CallMacro(*variable->macro, arguments);
    if (variable != nullptr || !CheckCall(Callable::kFunction, expression.name, arguments.positional.size(), {}).ok()) {
      return absl::InvalidArgumentError(absl::StrCat("'", expression.name, "' is not a macro here"));
    }
    return CallFunction(expression.name, arguments, arena_);
  }
  ASSIGN_OR_RETURN(const Value input, Evaluate(*expression.operands[0], scope));
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(expression, 1, scope));
  if (expression.kind == ExpressionKind::kFilter) return ApplyFilter(expression.name, input, arguments, arena_);
  if (expression.kind == ExpressionKind::kMethod) return CallMethod(expression.name, input, arguments, arena_);
  ASSIGN_OR_RETURN(const bool holds, ApplyTest(expression.name, input, arguments));
  return Value::Bool(holds);
}

}  // namespace conclave::jinja
