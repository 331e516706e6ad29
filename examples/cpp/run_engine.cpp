// Run what trtflow promoted: run_engine STORE/PIPELINE [INPUT=FILE.bin ...]
//
// Reads promoted.json and card.json, opens the engine, and runs it once at the opt of every named dim. An input whose
// file is not given is all zeros. Each output is written as OUTPUT.bin, in C order.
//
//   g++ -std=c++17 -I"$TENSORRT/include" -I"$CUDA/include" run_engine.cpp -L"$TENSORRT/lib" -L"$CUDA/lib64" \
//       -lnvinfer -lnvinfer_plugin -lcudart -o run_engine
//
// Needs nlohmann/json (Debian: nlohmann-json3-dev) and the TensorRT that made the engine. It does not compare the
// engine's sha256 with the card's, as the Python example does.

#include <NvInfer.h>
#include <NvInferPlugin.h>
#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <vector>

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

class Logger : public nvinfer1::ILogger {
    void log(Severity severity, char const* message) noexcept override {
        if (severity <= Severity::kWARNING) std::fprintf(stderr, "TensorRT: %s\n", message);
    }
};

std::vector<char> read(fs::path const& path) {
    std::ifstream stream(path, std::ios::binary);
    if (!stream) throw std::runtime_error("cannot read " + path.string());
    return {std::istreambuf_iterator<char>(stream), {}};
}

json readJson(fs::path const& path) {
    auto const text = read(path);
    return json::parse(text.begin(), text.end());
}

void check(cudaError_t code) {
    if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

// The card names types as numpy does.
std::size_t bytesOf(std::string const& dtype) {
    static std::map<std::string, std::size_t> const sizes{{"float32", 4}, {"float16", 2}, {"int32", 4}, {"int64", 8},
                                                          {"int8", 1},    {"uint8", 1},   {"bool", 1}};
    return sizes.at(dtype);
}

// A dim is a size, or the name of a dim whose usual size is its opt.
nvinfer1::Dims usualShape(json const& spec, json const& dims) {
    nvinfer1::Dims shape{};
    for (auto const& dim : spec.at("shape"))
        shape.d[shape.nbDims++] = dim.is_string() ? dims.at(dim.get<std::string>()).at("opt").get<int>() : dim.get<int>();
    return shape;
}

std::size_t volume(nvinfer1::Dims const& shape) {
    std::size_t count = 1;
    for (int i = 0; i < shape.nbDims; ++i) {
        if (shape.d[i] < 0) throw std::runtime_error("only running tells an output's shape: it needs an IOutputAllocator");
        count *= static_cast<std::size_t>(shape.d[i]);
    }
    return count;
}

struct DeviceMemory {
    void* address{nullptr};
    std::size_t size;
    explicit DeviceMemory(std::size_t bytes) : size(bytes) { check(cudaMalloc(&address, bytes ? bytes : 1)); }
    ~DeviceMemory() { cudaFree(address); }
    DeviceMemory(DeviceMemory const&) = delete;
    DeviceMemory& operator=(DeviceMemory const&) = delete;
};

void run(fs::path const& pipeline, std::map<std::string, std::string> const& files) {
    json const promoted = readJson(pipeline / "promoted.json").at("current");
    if (promoted.is_null()) throw std::runtime_error("nothing is promoted in " + pipeline.string());
    fs::path const folder = pipeline.parent_path() / promoted.at("artifact").get<std::string>();
    json const card = readJson(folder / "card.json");
    auto const plan = read(folder / "model.engine");
    if (plan.size() != card.at("engine_bytes").get<std::size_t>()) throw std::runtime_error("the engine is truncated");

    Logger logger;
    initLibNvInferPlugins(&logger, "");
    std::unique_ptr<nvinfer1::IRuntime> runtime{nvinfer1::createInferRuntime(logger)};
    // Such a plan holds code that is run: allow it only for an engine that you made.
    if (card.at("settings").value("version_compatible", false)) runtime->setEngineHostCodeAllowed(true);
    std::unique_ptr<nvinfer1::ICudaEngine> engine{runtime->deserializeCudaEngine(plan.data(), plan.size())};
    if (!engine) throw std::runtime_error("this TensorRT does not open the engine");
    std::unique_ptr<nvinfer1::IExecutionContext> context{engine->createExecutionContext()};
    if (!context) throw std::runtime_error("there is no memory for an execution context");
    cudaStream_t stream{};
    check(cudaStreamCreate(&stream));

    std::map<std::string, std::unique_ptr<DeviceMemory>> memory;
    auto const bind = [&](json const& spec, nvinfer1::Dims const& shape) -> DeviceMemory& {
        auto const name = spec.at("name").get<std::string>();
        auto& held = memory[name] =
            std::make_unique<DeviceMemory>(volume(shape) * bytesOf(spec.at("dtype").get<std::string>()));
        if (!context->setTensorAddress(name.c_str(), held->address)) throw std::runtime_error("no tensor " + name);
        return *held;
    };
    for (auto const& spec : card.at("inputs")) {
        auto const name = spec.at("name").get<std::string>();
        auto const shape = usualShape(spec, card.at("dims"));
        if (!context->setInputShape(name.c_str(), shape)) throw std::runtime_error("wrong shape for " + name);
        auto& held = bind(spec, shape);
        auto const file = files.find(name);
        std::vector<char> const given = file == files.end() ? std::vector<char>(held.size) : read(file->second);
        if (given.size() != held.size) throw std::runtime_error(name + " takes " + std::to_string(held.size) + " bytes");
        check(cudaMemcpyAsync(held.address, given.data(), held.size, cudaMemcpyHostToDevice, stream));
        check(cudaStreamSynchronize(stream));
    }
    for (auto const& spec : card.at("outputs"))
        bind(spec, context->getTensorShape(spec.at("name").get<std::string>().c_str()));

    if (!context->enqueueV3(stream)) throw std::runtime_error("the engine did not run");
    for (auto const& spec : card.at("outputs")) {
        auto const name = spec.at("name").get<std::string>();
        auto const& held = *memory.at(name);
        std::vector<char> output(held.size);
        check(cudaMemcpyAsync(output.data(), held.address, held.size, cudaMemcpyDeviceToHost, stream));
        check(cudaStreamSynchronize(stream));
        std::ofstream(name + ".bin", std::ios::binary).write(output.data(), static_cast<std::streamsize>(output.size()));
        std::printf("%s: %zu bytes\n", name.c_str(), output.size());
    }
    check(cudaStreamDestroy(stream));
}

}  // namespace

int main(int count, char** arguments) {
    if (count < 2) return std::fprintf(stderr, "run_engine STORE/PIPELINE [INPUT=FILE.bin ...]\n"), EXIT_FAILURE;
    std::map<std::string, std::string> files;
    for (int i = 2; i < count; ++i) {
        std::string const word = arguments[i];
        auto const middle = word.find('=');
        if (middle == std::string::npos) return std::fprintf(stderr, "not INPUT=FILE: %s\n", word.c_str()), EXIT_FAILURE;
        files[word.substr(0, middle)] = word.substr(middle + 1);
    }
    try {
        run(fs::path(arguments[1]), files);
    } catch (std::exception const& error) {
        return std::fprintf(stderr, "run_engine: %s\n", error.what()), EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
