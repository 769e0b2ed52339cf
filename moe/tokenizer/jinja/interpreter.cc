#include "moe/tokenizer/jinja/interpreter.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/lexer.h"

namespace conclave::jinja {
namespace {

constexpr int64_t kStepsMax = 20'000'000;
constexpr int kDepthMax = 400;

}  // namespace

absl::Status Interpreter::Step(int line) {
  if (++steps_ > kStepsMax) return LineError(line, absl::StrCat("more than ", kStepsMax, " steps"));
  if (depth_ > kDepthMax) return LineError(line, absl::StrCat("nested deeper than ", kDepthMax));
  if (arena_->over_limit()) return LineError(line, "the template needs too much memory");
  return absl::OkStatus();
}

absl::Status Interpreter::Render(const Block& block, Scope* scope, Text* out) {
  ASSIGN_OR_RETURN(const Flow flow, Run(block, scope, out));
  (void)flow;  // the parser lets break and continue stand within loops only
  // The last statement may have been what went over it.
  if (arena_->over_limit()) return absl::InvalidArgumentError("the template needs too much memory");
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::Run(const Block& block, Scope* scope, Text* out) {
  ++depth_;
  Flow flow = Flow::kNext;
  for (const auto& statement : block) {
    RETURN_IF_ERROR(Step(statement->line));
    ASSIGN_OR_RETURN(flow, RunOne(*statement, scope, out));
    if (flow != Flow::kNext) break;
  }
  --depth_;
  return flow;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunOne(const Statement& statement, Scope* scope, Text* out) {
  switch (statement.kind) {
    case StatementKind::kText:
      arena_->Charge(static_cast<int64_t>(statement.text.size()));
      out->Append(statement.text);
      return Flow::kNext;
    case StatementKind::kPrint: {
      ASSIGN_OR_RETURN(const Value value, Evaluate(*statement.expression, scope));
      if (value.IsText()) arena_->Charge(static_cast<int64_t>(value.text->size()));
      RETURN_IF_ERROR(Step(statement.line));
      const absl::Status printed = AppendPrinted(value, out);
      if (!printed.ok()) return LineError(statement.line, printed.message());
      return Flow::kNext;
    }
    case StatementKind::kFor:
      return RunFor(statement, scope, out);
    case StatementKind::kIf:
      return RunIf(statement, scope, out);
    case StatementKind::kSet:
    case StatementKind::kSetBlock:
      return RunSet(statement, scope);
    case StatementKind::kMacro:
      scope->Set(statement.name, arena_->NewMacro({&statement, scope}));
      return Flow::kNext;
    case StatementKind::kBreak:
      return Flow::kBreak;
    case StatementKind::kContinue:
      return Flow::kContinue;
  }
  return Flow::kNext;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunIf(const Statement& branch, Scope* scope, Text* out) {
  for (size_t i = 0; i < branch.conditions.size(); ++i) {
    ASSIGN_OR_RETURN(const Value condition, Evaluate(*branch.conditions[i], scope));
    if (Truth(condition)) return Run(branch.blocks[i], scope, out);
  }
  if (branch.blocks.size() > branch.conditions.size()) return Run(branch.blocks.back(), scope, out);
  return Flow::kNext;
}

absl::Status Interpreter::Assign(const Statement& statement, const Value& value, Scope* scope) {
  if (!statement.attribute.empty()) {
    const Value* target = scope->Find(statement.targets[0]);
    if (target == nullptr || target->kind != Kind::kNamespace) {
      return LineError(statement.line, absl::StrCat("cannot set ", statement.targets[0], ".", statement.attribute,
                                                    ": it is no namespace"));
    }
    target->dict->Set(statement.attribute, value);
    return absl::OkStatus();
  }
  if (statement.targets.size() == 1) {
    scope->Set(statement.targets[0], value);
    return absl::OkStatus();
  }
  absl::StatusOr<List> items = Iterate(value, arena_);
  if (!items.ok()) return LineError(statement.line, items.status().message());
  if (items->size() != statement.targets.size()) {
    return LineError(statement.line, absl::StrCat(items->size(), " values for ", statement.targets.size(), " names"));
  }
  for (size_t i = 0; i < items->size(); ++i) scope->Set(statement.targets[i], (*items)[i]);
  return absl::OkStatus();
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunSet(const Statement& set, Scope* scope) {
  Value value;
  if (set.kind == StatementKind::kSet) {
    ASSIGN_OR_RETURN(value, Evaluate(*set.expression, scope));
  } else {
    Text text;
    ASSIGN_OR_RETURN(const Flow flow, Run(set.blocks[0], arena_->NewScope(scope), &text));
    if (flow != Flow::kNext) return flow;
    value = arena_->NewText(std::move(text));
    if (set.expression != nullptr) {
      ASSIGN_OR_RETURN(value, FilterBlock(*set.expression, value, scope));
    }
  }
  RETURN_IF_ERROR(Assign(set, value, scope));
  return Flow::kNext;
}

// "{% set x | trim | upper %}": the innermost filter has no input of its own.
absl::StatusOr<Value> Interpreter::FilterBlock(const Expression& filter, const Value& input, Scope* scope) {
  Value value = input;
  if (filter.operands[0] != nullptr) {
    ASSIGN_OR_RETURN(value, FilterBlock(*filter.operands[0], input, scope));
  }
  ASSIGN_OR_RETURN(const Arguments arguments, EvaluateArguments(filter, 1, scope));
  absl::StatusOr<Value> result = ApplyFilter(filter.name, value, arguments, arena_);
  if (!result.ok()) return LineError(filter.line, result.status().message());
  return result;
}

absl::StatusOr<List> Interpreter::LoopItems(const Statement& loop, Scope* scope) {
  ASSIGN_OR_RETURN(const Value iterable, Evaluate(*loop.expression, scope));
  absl::StatusOr<List> items = Iterate(iterable, arena_);
  if (!items.ok()) return LineError(loop.line, items.status().message());
  if (loop.condition == nullptr) return items;
  List kept;
  for (const Value& item : *items) {
    Scope* inner = arena_->NewScope(scope);
    RETURN_IF_ERROR(Assign(loop, item, inner));
    ASSIGN_OR_RETURN(const Value condition, Evaluate(*loop.condition, inner));
    if (Truth(condition)) kept.push_back(item);
  }
  return kept;
}

Value Interpreter::LoopVariable(const List& items, size_t index) {
  const int64_t i = static_cast<int64_t>(index), count = static_cast<int64_t>(items.size());
  const Value loop = arena_->NewDict();
  arena_->Charge(12 * (sizeof(Value) + sizeof(std::string)));
  loop.dict->Set("index0", Value::Int(i));
  loop.dict->Set("index", Value::Int(i + 1));
  loop.dict->Set("revindex0", Value::Int(count - i - 1));
  loop.dict->Set("revindex", Value::Int(count - i));
  loop.dict->Set("first", Value::Bool(i == 0));
  loop.dict->Set("last", Value::Bool(i + 1 == count));
  loop.dict->Set("length", Value::Int(count));
  loop.dict->Set("depth", Value::Int(loop_depth_));
  loop.dict->Set("depth0", Value::Int(loop_depth_ - 1));
  loop.dict->Set("previtem", i == 0 ? Value::Undefined() : items[index - 1]);
  loop.dict->Set("nextitem", i + 1 == count ? Value::Undefined() : items[index + 1]);
  return loop;
}

absl::StatusOr<Interpreter::Flow> Interpreter::RunFor(const Statement& loop, Scope* scope, Text* out) {
  ASSIGN_OR_RETURN(const List items, LoopItems(loop, scope));
  if (items.empty()) return Run(loop.blocks[1], arena_->NewScope(scope), out);
  ++loop_depth_;
  for (size_t i = 0; i < items.size(); ++i) {
    RETURN_IF_ERROR(Step(loop.line));
    Scope* inner = arena_->NewScope(scope);  // what a turn sets is gone in the next
    RETURN_IF_ERROR(Assign(loop, items[i], inner));
    inner->Set("loop", LoopVariable(items, i));
    ASSIGN_OR_RETURN(const Flow flow, Run(loop.blocks[0], inner, out));
    if (flow == Flow::kBreak) break;
  }
  --loop_depth_;
  return Flow::kNext;
}

absl::StatusOr<Value> Interpreter::CallMacro(const Macro& macro, const Arguments& arguments) {
  const Statement& definition = *macro.definition;
  const size_t count = definition.targets.size();
  if (arguments.positional.size() > count) {
    return absl::InvalidArgumentError(absl::StrCat("the macro '", definition.name, "' takes ", count, " arguments"));
  }
  for (const auto& [name, value] : arguments.named) {
    if (std::find(definition.targets.begin(), definition.targets.end(), name) == definition.targets.end()) {
      return absl::InvalidArgumentError(absl::StrCat("the macro '", definition.name, "' has no parameter ", name));
    }
  }
  Scope* scope = arena_->NewScope(macro.scope);
  for (size_t i = 0; i < count; ++i) {
    const size_t first_default = count - definition.conditions.size();
    Value value = Value::Undefined(&definition.targets[i]);
    if (const Value* given = arguments.Find(i, definition.targets[i]); given != nullptr) {
      value = *given;
    } else if (i >= first_default) {
      ASSIGN_OR_RETURN(value, Evaluate(*definition.conditions[i - first_default], scope));
    }
    scope->Set(definition.targets[i], value);
  }
  Text text;
  ASSIGN_OR_RETURN(const Flow flow, Run(definition.blocks[0], scope, &text));
  (void)flow;
  return arena_->NewText(std::move(text));
}

}  // namespace conclave::jinja
