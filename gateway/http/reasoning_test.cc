#include "gateway/http/reasoning.h"

#include <string>

#include "gtest/gtest.h"

namespace conclave {
namespace {

struct Split {
  std::string reasoning, content;
  bool operator==(const Split& other) const { return reasoning == other.reasoning && content == other.content; }
};

Split SplitInPieces(const std::string& text, size_t piece, bool begins_inside) {
  ReasoningSplitter splitter(begins_inside);
  Split all;
  const auto add = [&all](const ReasoningPiece& new_text) {
    all.reasoning += new_text.reasoning;
    all.content += new_text.content;
  };
  for (size_t at = 0; at < text.size(); at += piece) add(splitter.Add(text.substr(at, piece)));
  add(splitter.Flush());
  return all;
}

void ExpectSplit(const std::string& text, bool begins_inside, const Split& expected) {
  for (size_t piece = 1; piece <= text.size(); ++piece) {
    const Split split = SplitInPieces(text, piece, begins_inside);
    EXPECT_EQ(split.reasoning, expected.reasoning) << text << " in " << piece;
    EXPECT_EQ(split.content, expected.content) << text << " in " << piece;
  }
}

TEST(ReasoningSplitter, TagsAreCutOutWhereverPiecesEnd) {
  ExpectSplit("<think>\nhm, 1 < 2\n</think>\n\nYes.</think>", false, {"hm, 1 < 2\n", "Yes.</think>"});
  ExpectSplit("hm </thin </think> yes", true, {"hm </thin ", "yes"});
  ExpectSplit("\n<think>a</think>b", false, {"a", "b"});
}

TEST(ReasoningSplitter, AnAnswerWithoutTagsIsContent) {
  ExpectSplit("plain <think> text", false, {"", "plain <think> text"});
  ExpectSplit("<thin", false, {"", "<thin"});
}

TEST(ReasoningSplitter, ThoughtsThatAreCutOffStayThoughts) {
  ExpectSplit("<think>never ends </th", false, {"never ends </th", ""});
  ExpectSplit("<think></think>x", false, {"", "x"});
}

}  // namespace
}  // namespace conclave
