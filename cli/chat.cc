// `conclave chat`: a conversation with a running cluster, on a terminal or through a pipe.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <iostream>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "cli/chat_client.h"
#include "cli/chat_session.h"
#include "cli/cluster_access.h"
#include "cli/command.h"
#include "cli/interrupts.h"
#include "cli/line_reader.h"
#include "cli/sampling_flags.h"
#include "moe/base/status_macros.h"

namespace conclave {
namespace {

class ChatCommand final : public Command {
 public:
  std::string name() const override { return "chat"; }
  std::string summary() const override { return "talk to the model of a running cluster"; }

  void Declare(CommandFlags& flags) override {
    access_.Declare(flags, "the gateway's gRPC address");
    flags.Add("system", &system_, "TEXT", "the system message");
    sampling_.Declare(flags);
    flags.Add("history-file", &history_file_, "FILE", "keep the lines that were typed here, for the next time");
    flags.Add("stats", &statistics_, "", "after each answer, show tokens and times");
  }

  absl::Status Run(const CommandContext&) override {
    RETURN_IF_ERROR(access_.Validate());
    RETURN_IF_ERROR(sampling_.Take());
    ASSIGN_OR_RETURN(const std::string address, access_.AddressOf("gateway"));
    const bool interactive = isatty(STDIN_FILENO) == 1 && isatty(STDOUT_FILENO) == 1;
    // Before the channel is opened, whose threads inherit the signal mask. Where nobody types, Ctrl-C ends the command.
    std::unique_ptr<Interrupts> interrupts;
    if (interactive) interrupts = std::make_unique<Interrupts>();
    ASSIGN_OR_RETURN(const auto client, ChatClient::Create(address, access_));
    ASSIGN_OR_RETURN(const v1::ModelInfo model, client->Model());

    std::unique_ptr<LineReader> reader;
    if (interactive) {
      ASSIGN_OR_RETURN(reader, NewTerminalLineReader(history_file_));
      std::cerr << model.id() << " at " << address << ", " << model.context_tokens_max()
                << " tokens of context. /help lists the commands, Ctrl-D leaves." << std::endl;
    } else {
      reader = NewStreamLineReader(&std::cin);
    }
    const auto ask = [&client, &interrupts](const v1::ChatRequest& request, const auto& sink, ChatAnswer* answer) {
      grpc::ClientContext context;
      if (interrupts == nullptr) return client->Ask(context, request, sink, answer);
      absl::Status status;
      interrupts->During([&context] { context.TryCancel(); },
                         [&] { status = client->Ask(context, request, sink, answer); });
      return status;
    };
    ChatSession session({interactive, isatty(STDOUT_FILENO) == 1, statistics_}, *reader, ask, std::cout, std::cerr);
    session.conversation().SetSystem(system_);
    session.sampling() = sampling_;
    return session.Run();
  }

 private:
  ClusterAccess access_;
  SamplingFlags sampling_;
  std::string system_, history_file_;
  bool statistics_ = false;
};

}  // namespace

std::unique_ptr<Command> NewChatCommand() { return std::make_unique<ChatCommand>(); }

}  // namespace conclave
