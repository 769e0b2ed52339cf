#include "cli/command_line.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "cli/command.h"

namespace conclave {
namespace {

// A verb with one flag of each kind.
class FakeCommand final : public Command {
 public:
  explicit FakeCommand(std::string name) : name_(std::move(name)) {}
  std::string name() const override { return name_; }
  std::string summary() const override { return "a verb of a test"; }
  void Declare(CommandFlags& flags) override {
    flags.Add("prompt", &prompt, "TEXT", "what to ask");
    CommandFlag& tokens = flags.Add("max-tokens", &max_tokens, "N", "how many");
    tokens.minimum = 1;
    tokens.maximum = 100;
    CommandFlag& heat = flags.Add("temperature", &temperature, "X", "how random");
    heat.minimum = 0;
    heat.maximum = 10;
    flags.Add("transport", &transport, "T", "how activations travel").choices = {"inproc", "grpc"};
    flags.Add("chat", &chat, "", "as a chat message");
    flags.Add("secret", &secret, "N", "for tests").hidden = true;
    flags.Add("directory", &directory, "DIR", "where").positional = true;
    flags.AddOutput(&output);
  }
  absl::Status Run(const CommandContext&) override { return absl::OkStatus(); }

  std::string prompt = "hello", transport = "inproc", directory, output = "text";
  int max_tokens = 5, secret = 0;
  double temperature = 0;
  bool chat = false;

 private:
  std::string name_;
};

class CommandLineTest : public testing::Test {
 protected:
  CommandLineTest() {
    commands_.push_back(std::make_unique<FakeCommand>("ask"));
    commands_.push_back(std::make_unique<FakeCommand>("other"));
  }

  // "" where parsing succeeded, else the message of a usage error.
  std::string Parse(std::vector<std::string> arguments) {
    const absl::StatusOr<Command*> command = ParseCommandLine(arguments, commands_);
    if (command.ok()) return *command == nullptr ? "(help)" : "";
    EXPECT_TRUE(IsUsageError(command.status())) << command.status();
    EXPECT_FALSE(absl::StrContains(command.status().message(), "\n"));
    return std::string(command.status().message());
  }

  FakeCommand& ask() { return static_cast<FakeCommand&>(*commands_[0]); }

  std::vector<std::unique_ptr<Command>> commands_;
};

TEST_F(CommandLineTest, FlagsFillTheirTargets) {
  EXPECT_EQ(Parse({"ask", "DIR", "--prompt", "a b", "--max-tokens=7", "--temperature", "0.5", "--chat", "-o", "json"}),
            "");
  EXPECT_EQ(ask().prompt, "a b");
  EXPECT_EQ(ask().max_tokens, 7);
  EXPECT_EQ(ask().temperature, 0.5);
  EXPECT_TRUE(ask().chat);
  EXPECT_EQ(ask().output, "json");
  EXPECT_EQ(ask().directory, "DIR");
  EXPECT_EQ(ask().transport, "inproc");
}

TEST_F(CommandLineTest, LastOccurrenceWins) {
  EXPECT_EQ(Parse({"ask", "--max-tokens", "3", "--prompt", "x", "--max-tokens", "4", "--prompt", "y"}), "");
  EXPECT_EQ(ask().max_tokens, 4);
  EXPECT_EQ(ask().prompt, "y");
}

TEST_F(CommandLineTest, EveryTextIsAPrompt) {
  for (const std::string text : {"-1", "--chat", "[1,2]", "a=b", "\"quoted\"", "%%", "", " ", "{}", "ask", "\n"}) {
    EXPECT_EQ(Parse({"ask", "--prompt", text}), "") << text;
    EXPECT_EQ(ask().prompt, text);
    EXPECT_EQ(Parse({"ask", "--prompt=" + text}), "") << text;
    EXPECT_EQ(ask().prompt, text);
  }
}

TEST_F(CommandLineTest, EnvironmentFillsWhatTheCommandLineLeavesOut) {
  setenv("CONCLAVE_MAX_TOKENS", "9", 1);
  setenv("CONCLAVE_CHAT", "true", 1);
  EXPECT_EQ(Parse({"ask"}), "");
  EXPECT_EQ(ask().max_tokens, 9);
  EXPECT_TRUE(ask().chat);
  EXPECT_EQ(Parse({"ask", "--max-tokens", "8", "--chat=false"}), "");
  EXPECT_EQ(ask().max_tokens, 8);
  EXPECT_FALSE(ask().chat);
  setenv("CONCLAVE_MAX_TOKENS", "many", 1);
  EXPECT_TRUE(absl::StrContains(Parse({"ask"}), "--max-tokens"));
  unsetenv("CONCLAVE_MAX_TOKENS");
  unsetenv("CONCLAVE_CHAT");
}

TEST_F(CommandLineTest, RefusalsNameTheFlagAndWhatItTakes) {
  EXPECT_TRUE(absl::StrContains(Parse({"ask", "--max-tokens", "x"}), "--max-tokens"));
  EXPECT_EQ(Parse({"ask", "--max-tokens", "0"}), "--max-tokens takes a number from 1 to 100, not 0");
  EXPECT_NE(Parse({"ask", "--max-tokens", "99999999999999999999"}), "");
  EXPECT_NE(Parse({"ask", "--temperature", "nan"}), "");
  EXPECT_NE(Parse({"ask", "--temperature", "-0.5"}), "");
  EXPECT_EQ(Parse({"ask", "--transport", "pigeon"}), "--transport takes one of inproc, grpc, not 'pigeon'");
  EXPECT_TRUE(absl::StrContains(Parse({"ask", "--prompt"}), "--prompt"));
  EXPECT_TRUE(absl::StrContains(Parse({"ask", "--chat=perhaps"}), "--chat"));
}

TEST_F(CommandLineTest, UnknownFlagIsRefusedWithTheNearestName) {
  EXPECT_TRUE(absl::StrContains(Parse({"ask", "--max-token", "3"}), "'--max-token'; did you mean --max-tokens"));
  EXPECT_TRUE(absl::StrContains(Parse({"ask", "--zzzzzz"}), "unknown flag '--zzzzzz'"));
  EXPECT_FALSE(absl::StrContains(Parse({"ask", "--secre"}), "did you mean --secret"));
  EXPECT_EQ(Parse({"ask", "--secret", "3"}), "");
}

TEST_F(CommandLineTest, MisplacedArgumentsAreRefused) {
  EXPECT_TRUE(absl::StrContains(Parse({"ask", "DIR", "more"}), "'more'"));
  EXPECT_TRUE(absl::StrContains(Parse({"ask", "DIR", "other"}), "'other'"));
  EXPECT_TRUE(absl::StrContains(Parse({"bogus"}), "unknown verb 'bogus'"));
  EXPECT_NE(Parse({}), "");
  EXPECT_NE(Parse({""}), "");
  EXPECT_NE(Parse({"--bogus"}), "");
  EXPECT_NE(Parse({"--prompt", "x"}), "");
}

TEST_F(CommandLineTest, HelpAndVersionEndWell) {
  for (const std::vector<std::string>& arguments :
       std::vector<std::vector<std::string>>{{"--help"}, {"--version"}, {"ask", "--help"}, {"ask", "-h"}}) {
    EXPECT_EQ(Parse(arguments), "(help)");
  }
}

}  // namespace
}  // namespace conclave
