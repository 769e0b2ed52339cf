#include "cli/chat_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moe/base/test_folder.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Lines that were typed before the test began.
class ScriptedReader final : public LineReader {
 public:
  explicit ScriptedReader(std::vector<Line> lines) : lines_(std::move(lines)) {}
  Line Read(const std::string&) override { return next_ < lines_.size() ? lines_[next_++] : Line{}; }
  void Remember(const std::string& line) override { remembered.push_back(line); }
  std::vector<std::string> remembered;

 private:
  std::vector<Line> lines_;
  size_t next_ = 0;
};

Line Text(const std::string& text) { return {Line::Kind::kText, text}; }

// A session whose model answers "to <question>", or what `fate` says, and what came of it.
struct Outcome {
  absl::Status status;
  std::vector<std::string> requests;  // contents of all messages of each, with bars between them
  std::vector<v1::ChatRequest> raw;
  std::string output, notes;
  std::vector<std::string> remembered;
};

struct Fate {
  std::string text;
  absl::Status status;
};

Outcome RunSession(std::vector<Line> lines, bool interactive = true, std::vector<Fate> fates = {}) {
  ScriptedReader reader(std::move(lines));
  std::ostringstream output, notes;
  Outcome outcome;
  const AskFunction ask = [&outcome, &fates](const v1::ChatRequest& request, const auto& sink, ChatAnswer* answer) {
    std::string contents;
    for (const v1::ChatMessage& message : request.messages()) absl::StrAppend(&contents, "|", message.content());
    const size_t index = outcome.requests.size();
    outcome.requests.push_back(contents);
    outcome.raw.push_back(request);
    const Fate fate = index < fates.size()
                          ? fates[index]
                          : Fate{absl::StrCat("to ", request.messages(request.messages_size() - 1).content()), {}};
    answer->text = fate.text;
    if (fate.status.ok()) answer->finish_reason = "stop";
    sink(fate.text);
    return fate.status;
  };
  ChatSession session({interactive, true, false}, reader, ask, output, notes);
  outcome.status = session.Run();
  outcome.output = output.str();
  outcome.notes = notes.str();
  outcome.remembered = reader.remembered;
  return outcome;
}

TEST(ChatSessionTest, EachQuestionBringsTheConversationBeforeIt) {
  const Outcome outcome = RunSession({Text("a"), Text(""), Text("b")}, false);
  EXPECT_TRUE(outcome.status.ok());
  EXPECT_THAT(outcome.requests, ElementsAre("|a", "|a|to a|b"));
  EXPECT_EQ(outcome.output, "to a\nto b\n");
  EXPECT_EQ(outcome.notes, "");
}

TEST(ChatSessionTest, TheSystemMessageComesFirstAndResetKeepsIt) {
  const Outcome outcome = RunSession(
      {Text("a"), Text("/system be brief"), Text("b"), Text("/reset"), Text("c"), Text("/system"), Text("d")});
  EXPECT_THAT(outcome.requests, ElementsAre("|a", "|be brief|b", "|be brief|c", "|d"));
  EXPECT_EQ(outcome.raw[1].messages(0).role(), "system");
}

TEST(ChatSessionTest, AFencedTextIsOneQuestionWhateverItBeginsWith) {
  const Outcome outcome =
      RunSession({Text("\"\"\"/bye"), Text("now"), Text("\"\"\""), Text("\"\"\"one\"\"\""), Text("/system \"\"\"two"),
                  Text("lines\"\"\""), Text("x"), Text(" /bye is a word")});
  EXPECT_THAT(outcome.requests, ElementsAre("|/bye\nnow", "|/bye\nnow|to /bye\nnow|one", "|two\nlines|x",
                                            "|two\nlines|x|to x|/bye is a word"));
}

TEST(ChatSessionTest, ACutAnswerStaysInTheConversationAndAnEmptyOneDoesNot) {
  const Outcome outcome = RunSession({Text("a"), Text("b"), Text("c")}, true,
                                     {{"par", absl::CancelledError("")}, {"", absl::CancelledError("")}});
  EXPECT_THAT(outcome.requests, ElementsAre("|a", "|a|par|b", "|a|par|c"));
  EXPECT_THAT(outcome.notes, HasSubstr("(cut off)"));
}

TEST(ChatSessionTest, AFailedQuestionIsForgottenAndTheNextOneWorks) {
  const Outcome outcome = RunSession({Text("a"), Text("b"), Text("c")}, true,
                                     {{"ok", {}}, {"half", absl::UnavailableError("gone\nfor good")}});
  EXPECT_TRUE(outcome.status.ok());
  EXPECT_THAT(outcome.requests, ElementsAre("|a", "|a|ok|b", "|a|ok|c"));
  EXPECT_THAT(outcome.notes, HasSubstr("error: gone for good\n"));
  EXPECT_EQ(outcome.output, "ok\nhalf\nto c\n\n");
}

TEST(ChatSessionTest, ThroughAPipeTheFirstErrorEndsIt) {
  const Outcome outcome = RunSession({Text("a"), Text("b")}, false, {{"", absl::UnavailableError("gone")}});
  EXPECT_TRUE(absl::IsUnavailable(outcome.status));
  EXPECT_THAT(outcome.requests, ElementsAre("|a"));
  EXPECT_FALSE(RunSession({Text("/nothing"), Text("b")}, false).status.ok());
}

TEST(ChatSessionTest, InterruptedLinesAskNothing) {
  const Outcome outcome = RunSession({{Line::Kind::kInterrupted, ""},
                                      Text("\"\"\"x"),
                                      {Line::Kind::kInterrupted, ""},
                                      Text("a"),
                                      Text("/bye"),
                                      Text("b")});
  EXPECT_THAT(outcome.requests, ElementsAre("|a"));
  EXPECT_THAT(outcome.notes, HasSubstr("Ctrl-D"));
}

TEST(ChatSessionTest, SettingsReachTheRequestAndRetryAsksAgain) {
  const Outcome outcome =
      RunSession({Text("/set temperature 0.5"), Text("/set max-tokens 7"), Text("a"), Text("/retry"),
                  Text("/set temperature default"), Text("b"), Text("/set heat 1"), Text("/show")});
  EXPECT_THAT(outcome.requests, ElementsAre("|a", "|a", "|a|to a|b"));
  EXPECT_EQ(outcome.raw[1].options().sampling().temperature(), 0.5f);
  EXPECT_EQ(outcome.raw[2].options().max_tokens(), 7);
  EXPECT_FALSE(outcome.raw[2].options().sampling().has_temperature());
  EXPECT_THAT(outcome.notes, HasSubstr("there is no setting 'heat'"));
  EXPECT_THAT(outcome.notes, HasSubstr("  max-tokens 7\n  turns: 2\n"));
}

TEST(ChatSessionTest, UnknownCommandsAreNotSentToTheModel) {
  const Outcome outcome = RunSession({Text("/sav x"), Text("/save"), Text("/retry"), Text("/help")});
  EXPECT_TRUE(outcome.requests.empty());
  EXPECT_THAT(outcome.notes, HasSubstr("there is no command /sav"));
  EXPECT_THAT(outcome.notes, HasSubstr("/save needs the name of a file"));
  EXPECT_THAT(outcome.notes, HasSubstr("no question to ask again"));
  EXPECT_THAT(outcome.notes, HasSubstr("/load"));
}

TEST(ChatSessionTest, ControlCharactersOfTheModelDoNotReachTheTerminal) {
  const Outcome outcome = RunSession({Text("a")}, true,
                                     {{"\x1b]0;t\x07 \xc2\x9b"
                                       "1m\té\n",
                                       {}}});
  EXPECT_EQ(outcome.output,
            "\xef\xbf\xbd]0;t\xef\xbf\xbd \xef\xbf\xbd"
            "1m\té\n\n");
}

TEST(ChatSessionTest, WhatWasSavedIsLoaded) {
  const std::string path = absl::StrCat(TestFolder(), "/conversation.json");
  RunSession({Text("/system s"), Text("a \"q\"\\"), Text(absl::StrCat("/save ", path))});
  const Outcome outcome = RunSession({Text(absl::StrCat("/load ", path)), Text("b")});
  EXPECT_THAT(outcome.requests, ElementsAre("|s|a \"q\"\\|to a \"q\"\\|b"));
}

TEST(ChatSessionTest, AFileThatIsNoConversationIsNamedAndChangesNothing) {
  const std::string path = absl::StrCat(TestFolder(), "/other.json");
  for (const char* text :
       {"", "[]", "{\"messages\": [1]}", "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}]}",
        "{\"messages\": [{\"role\": \"assistant\", \"content\": \"x\"}]}"}) {
    std::ofstream(path) << text;
    const Outcome outcome = RunSession({Text("a"), Text(absl::StrCat("/load ", path)), Text("b")});
    EXPECT_THAT(outcome.notes, HasSubstr(absl::StrCat("error: ", path, ": not a conversation"))) << text;
    EXPECT_EQ(outcome.requests.back(), "|a|to a|b");
  }
  EXPECT_THAT(RunSession({Text("/load /no/such/file")}).notes, HasSubstr("cannot read /no/such/file"));
}

}  // namespace
}  // namespace conclave
