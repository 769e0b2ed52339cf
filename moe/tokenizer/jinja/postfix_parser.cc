// What follows a primary expression: attributes, subscripts, calls, filters and tests.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/builtins.h"
#include "moe/tokenizer/jinja/expression_parser.h"

namespace conclave::jinja {
namespace {

constexpr size_t kArgumentsMax = 100;

// Prefixes the reason with the line.
absl::Status AtLine(int line, const absl::Status& status) {
  return status.ok() ? status : LineError(line, status.message());
}

std::vector<std::string> Names(const Expression& call) {
  std::vector<std::string> names;
  for (const auto& [name, value] : call.named) names.push_back(name);
  return names;
}

}  // namespace

absl::StatusOr<ExpressionPtr> ExpressionParser::Postfix(ExpressionPtr object) {
  while (true) {
    if (cursor_->TakeOperator(".")) {
      ExpressionPtr node = New(ExpressionKind::kAttribute);
      if (cursor_->Peek().kind == TokenKind::kInteger) {
        return LineError(node->line, "a number after '.' is not supported; write [n]");
      }
      ASSIGN_OR_RETURN(node->name, cursor_->ExpectName());
      node->operands.push_back(std::move(object));
      ASSIGN_OR_RETURN(object, Finish(std::move(node)));
    } else if (cursor_->AtOperator("[")) {
      ASSIGN_OR_RETURN(object, Subscript(std::move(object)));
    } else if (cursor_->AtOperator("(")) {
      ASSIGN_OR_RETURN(object, Call(std::move(object)));
    } else {
      return object;
    }
  }
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Subscript(ExpressionPtr object) {
  ExpressionPtr node = New(ExpressionKind::kItem);
  cursor_->Next();
  node->operands.push_back(std::move(object));
  ExpressionPtr part;
  if (!cursor_->AtOperator(":")) {
    ASSIGN_OR_RETURN(part, ParseTuple());
  }
  node->operands.push_back(std::move(part));
  if (cursor_->AtOperator(":")) {
    node->kind = ExpressionKind::kSlice;
    while (node->operands.size() < 4) {
      ExpressionPtr bound;
      if (cursor_->TakeOperator(":") && !cursor_->AtOperator(":") && !cursor_->AtOperator("]")) {
        ASSIGN_OR_RETURN(bound, Parse());
      }
      node->operands.push_back(std::move(bound));
    }
  }
  RETURN_IF_ERROR(cursor_->Expect(TokenKind::kOperator, "]"));
  return Finish(std::move(node));
}

absl::Status ExpressionParser::ParseArguments(Expression* call) {
  RETURN_IF_ERROR(cursor_->Expect(TokenKind::kOperator, "("));
  while (!cursor_->AtOperator(")")) {
    if (call->operands.size() + call->named.size() > kArgumentsMax) {
      return LineError(call->line, absl::StrCat("more than ", kArgumentsMax, " arguments"));
    }
    if (cursor_->AtOperator("*") || cursor_->AtOperator("**")) {
      return LineError(call->line, "arguments with * or ** are not supported");
    }
    const bool is_named = cursor_->Peek().kind == TokenKind::kName && cursor_->Peek(1).kind == TokenKind::kOperator &&
                          cursor_->Peek(1).text == "=";
    std::string name;
    if (is_named) {
      name = cursor_->Next().text;
      cursor_->Next();
    } else if (!call->named.empty()) {
      return LineError(call->line, "a positional argument after a named one");
    }
    ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
    if (is_named) {
      call->named.emplace_back(std::move(name), std::move(value));
    } else {
      call->operands.push_back(std::move(value));
    }
    if (!cursor_->TakeOperator(",")) break;
  }
  return cursor_->Expect(TokenKind::kOperator, ")");
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Call(ExpressionPtr callee) {
  ExpressionPtr node = New(ExpressionKind::kCall, callee->name);
  const bool is_method = callee->kind == ExpressionKind::kAttribute;
  if (is_method) {
    node->kind = ExpressionKind::kMethod;
    node->operands.push_back(std::move(callee->operands[0]));
  } else if (callee->kind != ExpressionKind::kName) {
    return LineError(node->line, "a call of something else than a name is not supported");
  }
  RETURN_IF_ERROR(ParseArguments(node.get()));
  if (is_method) {
    RETURN_IF_ERROR(
        AtLine(node->line, CheckCall(Callable::kMethod, node->name, node->operands.size() - 1, Names(*node))));
  } else {
    const absl::Status known = CheckCall(Callable::kFunction, node->name, node->operands.size(), Names(*node));
    if (absl::IsNotFound(known)) {
      macro_calls_.push_back({node->name, node->line});
    } else {
      RETURN_IF_ERROR(AtLine(node->line, known));
    }
  }
  return Finish(std::move(node));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::FiltersAndTests(ExpressionPtr object) {
  while (true) {
    if (cursor_->AtOperator("|")) {
      ASSIGN_OR_RETURN(object, Filter(std::move(object)));
    } else if (cursor_->AtName("is")) {
      ASSIGN_OR_RETURN(object, Test(std::move(object)));
    } else {
      return object;
    }
  }
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ParseFilters(ExpressionPtr input) {
  while (cursor_->AtOperator("|")) {
    ASSIGN_OR_RETURN(input, Filter(std::move(input)));
  }
  return input;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Filter(ExpressionPtr input) {
  cursor_->Next();
  ExpressionPtr node = New(ExpressionKind::kFilter);
  ASSIGN_OR_RETURN(node->name, cursor_->ExpectName());
  node->operands.push_back(std::move(input));
  if (cursor_->AtOperator("(")) RETURN_IF_ERROR(ParseArguments(node.get()));
  RETURN_IF_ERROR(
      AtLine(node->line, CheckCall(Callable::kFilter, node->name, node->operands.size() - 1, Names(*node))));
  return Finish(std::move(node));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Test(ExpressionPtr input) {
  cursor_->Next();
  const bool negated = cursor_->TakeName("not");
  ExpressionPtr node = New(ExpressionKind::kTest);
  ASSIGN_OR_RETURN(node->name, cursor_->ExpectName());
  node->operands.push_back(std::move(input));
  const Token& next = cursor_->Peek();
  if (cursor_->AtOperator("(")) {
    RETURN_IF_ERROR(ParseArguments(node.get()));
  } else if (next.kind == TokenKind::kString || next.kind == TokenKind::kInteger || next.kind == TokenKind::kFloat ||
             cursor_->AtOperator("[") || cursor_->AtOperator("{") ||
             (next.kind == TokenKind::kName && next.text != "else" && next.text != "or" && next.text != "and" &&
              next.text != "is" && next.text != "if" && next.text != "not" && next.text != "in")) {
    ASSIGN_OR_RETURN(ExpressionPtr argument, Primary());  // "is divisibleby 3" needs no brackets
    ASSIGN_OR_RETURN(argument, Postfix(std::move(argument)));
    node->operands.push_back(std::move(argument));
  }
  RETURN_IF_ERROR(AtLine(node->line, CheckCall(Callable::kTest, node->name, node->operands.size() - 1, Names(*node))));
  ASSIGN_OR_RETURN(node, Finish(std::move(node)));
  if (!negated) return node;
  ExpressionPtr negation = New(ExpressionKind::kNot);
  negation->operands.push_back(std::move(node));
  return Finish(std::move(negation));
}

}  // namespace conclave::jinja
