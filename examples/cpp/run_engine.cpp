// Run what trtflow promoted: run_engine STORE/PIPELINE [INPUT=FILE.bin ...]
//
// Reads promoted.json and card.json, opens the engine, and runs it once at the opt of every named dim. An input whose
// file is not given is all zeros. Each output is written as OUTPUT.bin. Files are in C order, in the dtypes of the model.
// The engine may have others (TensorRT 8.6 has no int64): the card says which, and values are converted here.
//
//   g++ -std=c++17 -I"$TENSORRT/include" -I"$CUDA/include" run_engine.cpp -L"$TENSORRT/lib" -L"$CUDA/lib64" \
//       -lnvinfer -lnvinfer_plugin -lcudart -o run_engine
//
// Needs nlohmann/json (Debian: nlohmann-json3-dev) and the TensorRT that made the engine. It does not compare the
// engine's sha256 with the card's, as the Python example does.

#include <NvInfer.h>
#include <NvInferPlugin.h>
#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
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
    static std::map<std::string, std::size_t> const sizes{{"float64", 8}, {"float32", 4}, {"float16", 2}, {"bfloat16", 2},
                                                          {"int64", 8},   {"int32", 4},   {"int8", 1},    {"uint8", 1},
                                                          {"bool", 1}};
    auto const found = sizes.find(dtype);
    if (found == sizes.end()) throw std::runtime_error("this example knows no " + dtype);
    return found->second;
}

// What the engine says of a tensor, named as the card does; empty for a type that the card would not name.
std::string nameOf(nvinfer1::DataType type) {
    using nvinfer1::DataType;
    switch (type) {
        case DataType::kFLOAT: return "float32";
        case DataType::kHALF: return "float16";
        case DataType::kINT8: return "int8";
        case DataType::kINT32: return "int32";
        case DataType::kBOOL: return "bool";
        case DataType::kUINT8: return "uint8";
#if NV_TENSORRT_MAJOR >= 10
        case DataType::kINT64: return "int64";
        case DataType::kBF16: return "bfloat16";
#endif
        default: return {};
    }
}

// Dtypes of one tensor: in the model, which files have, and in the engine's memory.
struct Dtypes {
    std::string model;
    std::string engine;
};

// Stop where the engine is not what its card says. Cards of older versions do not say it: then the engine alone does.
Dtypes dtypesOf(json const& spec, nvinfer1::ICudaEngine const& engine) {
    auto const name = spec.at("name").get<std::string>();
    auto const model = spec.at("dtype").get<std::string>();
    auto const found = nameOf(engine.getTensorDataType(name.c_str()));
    if (spec.contains("engine_dtype")) {
        auto const other = spec.at("engine_dtype").get<std::string>();
        auto const& said = other.empty() ? model : other;
        if (found != said) throw std::runtime_error(name + " is " + found + " in the engine, and " + said + " on its card");
    }
    return {model, found};
}

// Values of one type as values of another, which must hold them: infinities and NaN stay what they are.
template <typename From, typename To>
std::vector<char> cast(std::string const& name, std::vector<char> const& given) {
    auto const count = given.size() / sizeof(From);
    std::vector<char> made(count * sizeof(To));
    for (std::size_t i = 0; i < count; ++i) {
        From value{};
        std::memcpy(&value, given.data() + i * sizeof(From), sizeof(From));
        if constexpr (sizeof(To) < sizeof(From)) {
            bool const outside = value < static_cast<From>(std::numeric_limits<To>::lowest()) ||
                                 value > static_cast<From>(std::numeric_limits<To>::max());
            if (outside && std::isfinite(static_cast<double>(value)))
                throw std::runtime_error(name + " holds values that the engine's type does not");
        }
        auto const narrow = static_cast<To>(value);
        std::memcpy(made.data() + i * sizeof(To), &narrow, sizeof(To));
    }
    return made;
}

std::vector<char> converted(std::string const& name, std::vector<char> given, std::string const& from,
                            std::string const& to) {
    if (from == to) return given;
    if (from == "int64" && to == "int32") return cast<std::int64_t, std::int32_t>(name, given);
    if (from == "int32" && to == "int64") return cast<std::int32_t, std::int64_t>(name, given);
    if (from == "float64" && to == "float32") return cast<double, float>(name, given);
    if (from == "float32" && to == "float64") return cast<float, double>(name, given);
    throw std::runtime_error("this example does not convert " + name + " from " + from + " to " + to);
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
    auto const made = card.at("runtime").get<std::string>();
    if (made != "tensorrt") throw std::runtime_error("the engine was made by " + made + ", not by TensorRT");
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
    auto const bind = [&](std::string const& name, std::size_t bytes) -> DeviceMemory& {
        auto& held = memory[name] = std::make_unique<DeviceMemory>(bytes);
        if (!context->setTensorAddress(name.c_str(), held->address)) throw std::runtime_error("no tensor " + name);
        return *held;
    };
    for (auto const& spec : card.at("inputs")) {
        auto const name = spec.at("name").get<std::string>();
        auto const dtypes = dtypesOf(spec, *engine);
        auto const shape = usualShape(spec, card.at("dims"));
        if (!context->setInputShape(name.c_str(), shape)) throw std::runtime_error("wrong shape for " + name);
        auto const bytes = volume(shape) * bytesOf(dtypes.model);
        auto const file = files.find(name);
        std::vector<char> const given = file == files.end() ? std::vector<char>(bytes) : read(file->second);
        if (given.size() != bytes)
            throw std::runtime_error(name + " takes " + std::to_string(bytes) + " bytes of " + dtypes.model);
        auto const feed = converted(name, given, dtypes.model, dtypes.engine);
        auto& held = bind(name, feed.size());
        check(cudaMemcpyAsync(held.address, feed.data(), feed.size(), cudaMemcpyHostToDevice, stream));
        check(cudaStreamSynchronize(stream));
    }
    for (auto const& file : files)
        if (!memory.count(file.first)) throw std::runtime_error("the engine has no input " + file.first);
    for (auto const& spec : card.at("outputs")) {
        auto const name = spec.at("name").get<std::string>();
        bind(name, volume(context->getTensorShape(name.c_str())) * bytesOf(dtypesOf(spec, *engine).engine));
    }

    if (!context->enqueueV3(stream)) throw std::runtime_error("the engine did not run");
    for (auto const& spec : card.at("outputs")) {
        auto const name = spec.at("name").get<std::string>();
        auto const dtypes = dtypesOf(spec, *engine);
        auto const& held = *memory.at(name);
        std::vector<char> fetched(held.size);
        check(cudaMemcpyAsync(fetched.data(), held.address, held.size, cudaMemcpyDeviceToHost, stream));
        check(cudaStreamSynchronize(stream));
        auto const output = converted(name, fetched, dtypes.engine, dtypes.model);
        std::ofstream file(name + ".bin", std::ios::binary);
        file.write(output.data(), static_cast<std::streamsize>(output.size()));
        if (!file.flush()) throw std::runtime_error("cannot write " + name + ".bin");
        std::printf("%s: %s, %zu bytes\n", name.c_str(), dtypes.model.c_str(), output.size());
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
