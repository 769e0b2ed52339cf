// Literals, names and brackets.
#include "absl/strings/str_cat.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/expression_parser.h"

namespace conclave::jinja {
namespace {

constexpr size_t kItemsMax = 1000;  // of one list or mapping literal

}  // namespace

absl::StatusOr<ExpressionPtr> ExpressionParser::Primary() {
  const Token& token = cursor_->Peek();
  switch (token.kind) {
    case TokenKind::kName:
      return Name();
    case TokenKind::kInteger:
      return Literal(Value::Int(cursor_->Next().integer));
    case TokenKind::kFloat:
      return Literal(Value::Float(cursor_->Next().real));
    case TokenKind::kString: {
      ExpressionPtr literal = New(ExpressionKind::kLiteral);
      // Strings that follow each other are one.
      while (cursor_->Peek().kind == TokenKind::kString) {
        literal->text.Append(cursor_->Next().text, /*from_template=*/true);
      }
      literal->value.kind = Kind::kText;
      literal->value.text = &literal->text;
      return literal;
    }
    default:
      break;
  }
  if (cursor_->AtOperator("(")) return Parenthesis();
  if (cursor_->AtOperator("[")) return ListLiteral();
  if (cursor_->AtOperator("{")) return DictLiteral();
  return LineError(token.line, absl::StrCat("expected an expression but found ", SpelledToken(token)));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Name() {
  ExpressionPtr node = New(ExpressionKind::kName);
  node->name = cursor_->Next().text;
  const std::string& name = node->name;
  if (name == "true" || name == "True") return Literal(Value::Bool(true));
  if (name == "false" || name == "False") return Literal(Value::Bool(false));
  if (name == "none" || name == "None") return Literal(Value::None());
  for (const char* refused : {"caller", "varargs", "kwargs", "self", "super"}) {
    if (name == refused) return LineError(node->line, absl::StrCat("'", name, "' is not supported"));
  }
  return node;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::Parenthesis() {
  cursor_->Next();
  if (cursor_->TakeOperator(")")) return New(ExpressionKind::kList);
  ASSIGN_OR_RETURN(ExpressionPtr inner, ParseTuple());
  RETURN_IF_ERROR(cursor_->Expect(TokenKind::kOperator, ")"));
  return inner;
}

absl::StatusOr<ExpressionPtr> ExpressionParser::ListLiteral() {
  ExpressionPtr list = New(ExpressionKind::kList);
  cursor_->Next();
  while (!cursor_->AtOperator("]")) {
    if (list->operands.size() == kItemsMax) return LineError(list->line, "a list of too many items");
    ASSIGN_OR_RETURN(ExpressionPtr item, Parse());
    list->operands.push_back(std::move(item));
    if (!cursor_->TakeOperator(",")) break;
  }
  RETURN_IF_ERROR(cursor_->Expect(TokenKind::kOperator, "]"));
  return Finish(std::move(list));
}

absl::StatusOr<ExpressionPtr> ExpressionParser::DictLiteral() {
  ExpressionPtr dict = New(ExpressionKind::kDict);
  cursor_->Next();
  while (!cursor_->AtOperator("}")) {
    if (dict->operands.size() >= 2 * kItemsMax) return LineError(dict->line, "a mapping of too many items");
    ASSIGN_OR_RETURN(ExpressionPtr key, Parse());
    RETURN_IF_ERROR(cursor_->Expect(TokenKind::kOperator, ":"));
    ASSIGN_OR_RETURN(ExpressionPtr value, Parse());
    dict->operands.push_back(std::move(key));
    dict->operands.push_back(std::move(value));
    if (!cursor_->TakeOperator(",")) break;
  }
  RETURN_IF_ERROR(cursor_->Expect(TokenKind::kOperator, "}"));
  return Finish(std::move(dict));
}

}  // namespace conclave::jinja
