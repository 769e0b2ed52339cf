#include "moe/tokenizer/jinja/parser.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "moe/base/status_macros.h"
#include "moe/tokenizer/jinja/expression_parser.h"
#include "moe/tokenizer/jinja/lexer.h"

namespace conclave::jinja {
namespace {

constexpr int kBlockDepthMax = 50;
constexpr size_t kParametersMax = 100;

class TemplateParser {
 public:
  explicit TemplateParser(std::vector<Token> tokens) : cursor_(std::move(tokens)), expressions_(&cursor_) {}

  absl::StatusOr<Block> Run() {
    ASSIGN_OR_RETURN(Block block, ParseBlock({}));
    for (const auto& call : expressions_.macro_calls()) {
      if (macros_.count(call.name) == 0) {
        return LineError(call.line, absl::StrCat("the function '", call.name, "' is not supported"));
      }
    }
    return block;
  }

 private:
  using StatementPtr = std::unique_ptr<Statement>;

  StatementPtr New(StatementKind kind, int line) {
    auto statement = std::make_unique<Statement>();
    statement->kind = kind;
    statement->line = line;
    return statement;
  }
  absl::Status EndTag() { return cursor_.Expect(TokenKind::kBlockEnd, "%}"); }
  // Takes the end tag that ParseBlock stopped at, as in "{% endfor %}".
  absl::Status CloseBlock() {
    cursor_.Next();
    cursor_.Next();
    return EndTag();
  }

  // Statements up to a tag named in `ends`, at whose "{%" it stops; without `ends` up to the end of the template.
  absl::StatusOr<Block> ParseBlock(absl::Span<const absl::string_view> ends);
  absl::Status ParseTag(Block* out);
  absl::StatusOr<StatementPtr> For(int line);
  absl::StatusOr<StatementPtr> If(int line);
  absl::StatusOr<StatementPtr> Set(int line);
  absl::StatusOr<StatementPtr> MacroDefinition(int line);
  absl::Status Targets(std::vector<std::string>* names);

  TokenCursor cursor_;
  ExpressionParser expressions_;
  std::set<std::string> macros_;
  int depth_ = 0;
  int loops_ = 0;
};

absl::StatusOr<Block> TemplateParser::ParseBlock(absl::Span<const absl::string_view> ends) {
  const int line = cursor_.Peek().line;
  if (++depth_ > kBlockDepthMax) return LineError(line, absl::StrCat("blocks nested deeper than ", kBlockDepthMax));
  Block block;
  while (true) {
    const Token& token = cursor_.Peek();
    if (token.kind == TokenKind::kEnd) {
      if (!ends.empty()) return LineError(line, absl::StrCat("a block without its ", std::string(ends.back())));
      break;
    }
    if (token.kind == TokenKind::kData) {
      StatementPtr text = New(StatementKind::kText, token.line);
      text->text.Append(cursor_.Next().text, /*from_template=*/true);
      block.push_back(std::move(text));
    } else if (token.kind == TokenKind::kPrintBegin) {
      cursor_.Next();
      StatementPtr print = New(StatementKind::kPrint, token.line);
      ASSIGN_OR_RETURN(print->expression, expressions_.ParseTuple());
      RETURN_IF_ERROR(cursor_.Expect(TokenKind::kPrintEnd, "}}"));
      block.push_back(std::move(print));
    } else {
      const std::string& tag = cursor_.Peek(1).text;
      if (std::find(ends.begin(), ends.end(), absl::string_view(tag)) != ends.end()) break;
      RETURN_IF_ERROR(ParseTag(&block));
    }
  }
  --depth_;
  return block;
}

absl::Status TemplateParser::ParseTag(Block* out) {
  const int line = cursor_.Peek().line;
  cursor_.Next();
  ASSIGN_OR_RETURN(const std::string tag, cursor_.ExpectName());
  StatementPtr statement;
  if (tag == "for") {
    ASSIGN_OR_RETURN(statement, For(line));
  } else if (tag == "if") {
    ASSIGN_OR_RETURN(statement, If(line));
  } else if (tag == "set") {
    ASSIGN_OR_RETURN(statement, Set(line));
  } else if (tag == "macro") {
    ASSIGN_OR_RETURN(statement, MacroDefinition(line));
  } else if (tag == "break" || tag == "continue") {
    if (loops_ == 0) return LineError(line, absl::StrCat("{% ", tag, " %} outside a loop"));
    statement = New(tag == "break" ? StatementKind::kBreak : StatementKind::kContinue, line);
    RETURN_IF_ERROR(EndTag());
  } else if (tag == "generation") {  // Only marks, for training, what the assistant said.
    RETURN_IF_ERROR(EndTag());
    ASSIGN_OR_RETURN(Block body, ParseBlock({"endgeneration"}));
    for (StatementPtr& inner : body) out->push_back(std::move(inner));
    return CloseBlock();
  } else {
    return LineError(line, absl::StrCat("the tag {% ", tag.substr(0, 40), " %} is not supported here"));
  }
  out->push_back(std::move(statement));
  return absl::OkStatus();
}

absl::Status TemplateParser::Targets(std::vector<std::string>* names) {
  const bool bracket = cursor_.TakeOperator("(");
  do {
    ASSIGN_OR_RETURN(std::string name, cursor_.ExpectName());
    names->push_back(std::move(name));
    if (names->size() > kParametersMax) return LineError(cursor_.Peek().line, "too many names");
  } while (cursor_.TakeOperator(","));
  return bracket ? cursor_.Expect(TokenKind::kOperator, ")") : absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Statement>> TemplateParser::For(int line) {
  StatementPtr loop = New(StatementKind::kFor, line);
  RETURN_IF_ERROR(Targets(&loop->targets));
  if (!cursor_.TakeName("in")) return LineError(line, "{% for %} without 'in'");
  ASSIGN_OR_RETURN(loop->expression, expressions_.ParseWithoutConditional());
  if (cursor_.TakeName("if")) {
    ASSIGN_OR_RETURN(loop->condition, expressions_.Parse());
  }
  if (cursor_.AtName("recursive")) return LineError(line, "a recursive loop is not supported");
  RETURN_IF_ERROR(EndTag());
  ++loops_;
  ASSIGN_OR_RETURN(Block body, ParseBlock({"else", "endfor"}));
  --loops_;
  loop->blocks.push_back(std::move(body));
  loop->blocks.emplace_back();
  if (cursor_.Peek(1).text == "else") {
    RETURN_IF_ERROR(CloseBlock());
    ASSIGN_OR_RETURN(loop->blocks[1], ParseBlock({"endfor"}));
  }
  RETURN_IF_ERROR(CloseBlock());
  return loop;
}

absl::StatusOr<std::unique_ptr<Statement>> TemplateParser::If(int line) {
  StatementPtr branch = New(StatementKind::kIf, line);
  while (true) {
    ASSIGN_OR_RETURN(ExpressionPtr condition, expressions_.ParseTuple());
    branch->conditions.push_back(std::move(condition));
    RETURN_IF_ERROR(EndTag());
    ASSIGN_OR_RETURN(Block body, ParseBlock({"elif", "else", "endif"}));
    branch->blocks.push_back(std::move(body));
    if (cursor_.Peek(1).text != "elif") break;
    cursor_.Next();
    cursor_.Next();
  }
  if (cursor_.Peek(1).text == "else") {
    RETURN_IF_ERROR(CloseBlock());
    ASSIGN_OR_RETURN(Block body, ParseBlock({"endif"}));
    branch->blocks.push_back(std::move(body));
  }
  RETURN_IF_ERROR(CloseBlock());
  return branch;
}

absl::StatusOr<std::unique_ptr<Statement>> TemplateParser::Set(int line) {
  StatementPtr set = New(StatementKind::kSet, line);
  RETURN_IF_ERROR(Targets(&set->targets));
  if (set->targets.size() == 1 && cursor_.TakeOperator(".")) {
    ASSIGN_OR_RETURN(set->attribute, cursor_.ExpectName());
  }
  if (cursor_.TakeOperator("=")) {
    ASSIGN_OR_RETURN(set->expression, expressions_.ParseTuple());
    RETURN_IF_ERROR(EndTag());
    return set;
  }
  if (set->targets.size() > 1) return LineError(line, "{% set %} of several names needs '='");
  set->kind = StatementKind::kSetBlock;
  ASSIGN_OR_RETURN(set->expression, expressions_.ParseFilters(nullptr));
  RETURN_IF_ERROR(EndTag());
  ASSIGN_OR_RETURN(Block body, ParseBlock({"endset"}));
  set->blocks.push_back(std::move(body));
  RETURN_IF_ERROR(CloseBlock());
  return set;
}

absl::StatusOr<std::unique_ptr<Statement>> TemplateParser::MacroDefinition(int line) {
  StatementPtr macro = New(StatementKind::kMacro, line);
  ASSIGN_OR_RETURN(macro->name, cursor_.ExpectName());
  macros_.insert(macro->name);
  RETURN_IF_ERROR(cursor_.Expect(TokenKind::kOperator, "("));
  while (!cursor_.AtOperator(")")) {
    if (macro->targets.size() == kParametersMax) return LineError(line, "a macro with too many parameters");
    ASSIGN_OR_RETURN(std::string parameter, cursor_.ExpectName());
    macro->targets.push_back(std::move(parameter));
    if (cursor_.TakeOperator("=")) {
      ASSIGN_OR_RETURN(ExpressionPtr value, expressions_.Parse());
      macro->conditions.push_back(std::move(value));
    } else if (!macro->conditions.empty()) {
      return LineError(line, "a macro's parameter without a default after one with a default");
    }
    if (!cursor_.TakeOperator(",")) break;
  }
  RETURN_IF_ERROR(cursor_.Expect(TokenKind::kOperator, ")"));
  RETURN_IF_ERROR(EndTag());
  const int outer_loops = std::exchange(loops_, 0);
  ASSIGN_OR_RETURN(Block body, ParseBlock({"endmacro"}));
  loops_ = outer_loops;
  macro->blocks.push_back(std::move(body));
  if (cursor_.Peek(2).kind == TokenKind::kName) {  // "{% endmacro name %}"
    cursor_.Next();
    cursor_.Next();
    cursor_.Next();
    RETURN_IF_ERROR(EndTag());
    return macro;
  }
  RETURN_IF_ERROR(CloseBlock());
  return macro;
}

}  // namespace

absl::StatusOr<Block> ParseTemplate(absl::string_view source) {
  ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return TemplateParser(std::move(tokens)).Run();
}

}  // namespace conclave::jinja
