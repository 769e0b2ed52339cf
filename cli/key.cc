// `conclave key`: a new API key for a tenant, and the line that a key file keeps of it.
#include <iostream>
#include <memory>
#include <string>

#include "cli/command.h"
#include "gateway/tenants/api_key.h"
#include "moe/base/json_writer.h"

namespace conclave {
namespace {

class KeyCommand final : public Command {
 public:
  std::string name() const override { return "key"; }
  std::string summary() const override { return "make an API key, and the hash of it for the gateway's --api-keys"; }
  void Declare(CommandFlags& flags) override { flags.AddOutput(&output_); }

  absl::Status Run(const CommandContext&) override {
    const std::string key = NewApiKey();
    const std::string hash = ShowKeyHash(HashApiKey(key));
    if (output_ == "json") {
      JsonWriter json;
      json.BeginObject().Key("key").Text(key).Key("hash").Text(hash).End();
      std::cout << json.text() << "\n";
      return absl::OkStatus();
    }
    std::cout << "key, for the client (it is kept nowhere):  " << key << "\n"
              << "hash, for the tenant's `keys` in the file:  " << hash << "\n";
    return absl::OkStatus();
  }

 private:
  std::string output_ = "text";
};

}  // namespace

std::unique_ptr<Command> NewKeyCommand() { return std::make_unique<KeyCommand>(); }

}  // namespace conclave
